//! Secrets that are nobody's, from a seed: values that a sidecar is told, and credentials by the form of their kind.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::env;

const SEED_ENV: &str = "BOTTLE_SEED";
const DIGITS: &[u8] = b"0123456789";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ALNUM: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";
const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// How the numbers of checksums are written: GitHub's digits, npm's too.
const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How many values the sidecar knows.
pub(crate) const KNOWN: usize = 6;

/// Makes secrets.
pub(crate) struct Generator(StdRng);

impl Generator {
    /// From the seed of this run, which is printed.
    pub(crate) fn of_this_run() -> anyhow::Result<Self> {
        let seed = match env::var(SEED_ENV) {
            Ok(text) => text.parse()?,
            Err(_) => rand::rngs::StdRng::from_entropy().gen_range(0..u64::from(u32::MAX)),
        };
        println!("the seed is {seed}; again with {SEED_ENV}={seed}");
        Ok(Self::new(seed))
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn of(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(alphabet[self.0.gen_range(0..alphabet.len())])).collect()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.0.r#gen()).collect()
    }

    /// The values that a sidecar is told: of six shapes, none of which is any vendor's.
    pub(crate) fn known(&mut self) -> [String; KNOWN] {
        [
            self.of(ALNUM, 40),
            BASE64_STANDARD.encode(self.bytes(32)),
            self.of(HEX, 64),
            format!("{}#\"{}\\{}%& {}", self.of(ALNUM, 6), self.of(ALNUM, 5), self.of(ALNUM, 6), self.of(ALNUM, 4)),
            format!("{}-{}-{}", self.of(ALNUM, 8), self.of(LOWER, 7), self.of(ALNUM, 9)),
            self.of(LOWER, 20),
        ]
    }

    /// A credential of a kind; none if nobody here knows it.
    pub(crate) fn kind(&mut self, kind: &str) -> Option<String> {
        Some(match kind {
            "aws" => format!("AKIA{}", self.of(BASE32, 16)),
            "github" => self.checked("ghp_", 30),
            "npm" => self.checked("npm_", 30),
            "gitlab" => format!("glpat-{}", self.of(ALNUM, 20)),
            "slack" => format!("xoxb-{}-{}-{}", self.of(DIGITS, 12), self.of(DIGITS, 12), self.of(ALNUM, 24)),
            "stripe" => format!("sk_live_{}", self.of(ALNUM, 24)),
            "google" => format!("AIza{}", self.of(ALNUM, 35)),
            "sendgrid" => format!("SG.{}.{}", self.of(ALNUM, 22), self.of(ALNUM, 43)),
            "huggingface" => format!("hf_{}", self.of(&ALNUM[..52], 34)),
            "digitalocean" => format!("dop_v1_{}", self.of(HEX, 64)),
            "pypi" => format!("pypi-AgEIcHlwaS5vcmc{}", self.of(ALNUM, 150)),
            "anthropic" => format!("sk-ant-api03-{}AA", self.of(ALNUM, 93)),
            "openai" => format!("sk-proj-{}T3BlbkFJ{}", self.of(ALNUM, 74), self.of(ALNUM, 74)),
            "age" => format!("AGE-SECRET-KEY-1{}", self.of(b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)),
            "postgres" => format!("postgres://app:{}@db.internal.example:5432/prod", self.of(ALNUM, 22)),
            "jwt" => self.jwt(),
            "pem" => self.pem("RSA PRIVATE KEY", &[0x30, 0x82, 0x04, 0xa4, 0x02, 0x01, 0x00], 600),
            "openssh" => self.pem("OPENSSH PRIVATE KEY", b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none", 300),
            _ => return None,
        })
    }

    /// With the checksum that GitHub's and npm's tokens end with: CRC-32 in base 62, six digits.
    fn checked(&mut self, prefix: &str, length: usize) -> String {
        let random = self.of(ALNUM, length);
        let mut crc = flate2::Crc::new();
        crc.update(random.as_bytes());
        let (mut rest, mut sum) = (crc.sum() as usize, vec![]);
        for _ in 0..6 {
            sum.push(BASE62[rest % 62]);
            rest /= 62;
        }
        sum.reverse();
        format!("{prefix}{random}{}", String::from_utf8_lossy(&sum))
    }

    fn jwt(&mut self) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let claims = format!(r#"{{"sub":"{}","iat":1763700000,"admin":true}}"#, self.of(DIGITS, 10));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.bytes(32));
        format!("{}.{}.{signature}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(&claims))
    }

    fn pem(&mut self, label: &str, begins: &[u8], length: usize) -> String {
        let body = BASE64_STANDARD.encode([begins, &self.bytes(length)].concat());
        let lines: Vec<&str> =
            body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
        // In two pieces: nobody's search for keys shall find one in this file.
        format!("-----BEGIN {label}{dashes}\n{}\n-----END {label}{dashes}", lines.join("\n"), dashes = "-----")
    }
}
