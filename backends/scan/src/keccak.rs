//! The checksum in the letters of an Ethereum address (EIP-55), for which Keccak-256 is needed once per candidate. A
//! crate for it would be larger than this.

const ROUNDS: [u64; 24] = [
    0x1,
    0x8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x808b,
    0x8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x8a,
    0x88,
    0x8000_8009,
    0x8000_000a,
    0x8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x8000_0001,
    0x8000_0000_8000_8008,
];
const ROTATE: [u32; 24] = [1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 2, 14, 27, 41, 56, 8, 25, 43, 62, 18, 39, 61, 20, 44];
const PLACE: [usize; 24] = [10, 7, 11, 17, 18, 3, 5, 16, 8, 21, 24, 4, 15, 23, 19, 13, 12, 2, 20, 14, 22, 9, 6, 1];

fn permute(a: &mut [u64; 25]) {
    for constant in ROUNDS {
        let column = |x: usize| (0..5).fold(0, |all, y| all ^ a[x + 5 * y]);
        let columns: [u64; 5] = std::array::from_fn(column);
        for (n, lane) in a.iter_mut().enumerate() {
            *lane ^= columns[(n % 5 + 4) % 5] ^ columns[(n % 5 + 1) % 5].rotate_left(1);
        }
        let mut last = a[1];
        for (place, rotate) in PLACE.iter().zip(ROTATE) {
            (a[*place], last) = (last.rotate_left(rotate), a[*place]);
        }
        for row in a.chunks_exact_mut(5) {
            let old: [u64; 5] = std::array::from_fn(|x| row[x]);
            for x in 0..5 {
                row[x] ^= !old[(x + 1) % 5] & old[(x + 2) % 5];
            }
        }
        a[0] ^= constant;
    }
}

/// Of at most 135 bytes: one block.
fn keccak256(bytes: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 136];
    let length = bytes.len().min(135);
    block[..length].copy_from_slice(&bytes[..length]);
    block[length] ^= 0x01;
    block[135] ^= 0x80;
    let mut state = [0_u64; 25];
    for (lane, eight) in state.iter_mut().zip(block.chunks_exact(8)) {
        *lane = eight.iter().rev().fold(0, |lane, byte| lane << 8 | u64::from(*byte));
    }
    permute(&mut state);
    let mut hash = [0; 32];
    for (four, lane) in hash.chunks_exact_mut(8).zip(state) {
        four.copy_from_slice(&lane.to_le_bytes());
    }
    hash
}

/// `0x` and forty hexadecimal digits, the letters in the case that their hash says.
pub(crate) fn eip55(address: &[u8]) -> bool {
    let Some(digits) = address.strip_prefix(b"0x").filter(|digits| digits.len() == 40) else { return false };
    let hash = keccak256(&digits.to_ascii_lowercase());
    digits.iter().enumerate().all(|(n, digit)| {
        let nibble = hash[n / 2] >> (4 * (1 - n % 2)) & 15;
        !digit.is_ascii_alphabetic() || digit.is_ascii_uppercase() == (nibble >= 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_standard() {
        assert!(eip55(b"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"));
        assert!(eip55(b"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"));
        assert!(!eip55(b"0xfb6916095ca1df60bB79Ce92cE3Ea74c37c5d359"));
    }
}
