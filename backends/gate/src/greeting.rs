//! The one packet that a client of `git://` begins with: `git-upload-pack /CAPABILITY/NAME.git\0host=…\0\0version=2\0`.

use std::fmt;

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// To fetch.
    UploadPack,
    /// To push.
    ReceivePack,
}

impl Service {
    /// As git calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }
}

/// A greeting that was understood.
#[derive(Clone, PartialEq, Eq)]
pub struct Greeting {
    /// What it asks for.
    pub service: Service,
    /// Its word that it is this bottle.
    pub capability: String,
    /// The `git` entry.
    pub name: String,
    /// The version of git's protocol, as git's own programs are told it.
    pub version: Option<&'static str>,
}

impl fmt::Debug for Greeting {
    /// Without the capability.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting").field("service", &self.service).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Greeting {
    /// Reads one. `None`: it is no greeting of ours, and nobody needs to know why.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut parts = packet.split(|b| *b == 0);
        let request = std::str::from_utf8(parts.next()?).ok()?;
        let (service, path) = request.trim_end_matches('\n').split_once(' ')?;
        let service = match service {
            "git-upload-pack" => Service::UploadPack,
            "git-receive-pack" => Service::ReceivePack,
            _ => return None,
        };
        let (capability, name) = path.strip_prefix('/')?.split_once('/')?;
        let name = name.strip_suffix(".git").unwrap_or(name);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if capability.is_empty() || name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        // `host=…` comes first, and says nothing that counts; what it does not know git passes over, and so is it here.
        let version = parts.find_map(|part| match part {
            b"version=2" => Some("version=2"),
            b"version=1" => Some("version=1"),
            _ => None,
        });
        Some(Self { service, capability: capability.into(), name: name.into(), version })
    }

    /// Is its capability this one? In a time that does not tell how much of it is right.
    pub fn is_from(&self, capability: &str) -> bool {
        let (given, own) = (self.capability.as_bytes(), capability.as_bytes());
        let differ = given.iter().zip(own).fold(0, |differ, (a, b)| differ | (a ^ b));
        given.len() == own.len() && std::hint::black_box(differ) == 0 && !own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_services_of_plain_names_are_greeted() {
        for (packet, expected) in [
            (
                "git-upload-pack /cap/app.git\0host=git-gate\0\0version=2\0",
                Some(("upload-pack", "app", Some("version=2"))),
            ),
            ("git-receive-pack /cap/app.git\0host=git-gate:9418\0", Some(("receive-pack", "app", None))),
            ("git-receive-pack /cap/app\n", Some(("receive-pack", "app", None))),
            ("git-upload-pack /cap/app.git\0host=a\0\0version=1\0", Some(("upload-pack", "app", Some("version=1")))),
            ("git-upload-pack /cap/app.git\0host=a\0\0version=9\0x=y\0", Some(("upload-pack", "app", None))),
            ("git-upload-archive /cap/app.git\0host=a\0", None),
            ("git-upload-pack /cap/../app.git\0", None),
            ("git-upload-pack /cap/a/b.git\0", None),
            ("git-upload-pack /app.git\0", None),
            ("git-upload-pack //app.git\0", None),
            ("git-upload-pack cap/app.git\0", None),
            ("git-upload-pack /cap/.git\0", None),
            ("git-upload-pack\0", None),
            ("git-upload-pack /cap/--x y.git\0", None),
            ("", None),
        ] {
            let greeting = Greeting::parse(packet.as_bytes());
            let seen = greeting.as_ref().map(|g| (g.service.name(), g.name.as_str(), g.version));
            assert_eq!(seen, expected, "{packet:?}");
            assert!(
                greeting.is_none_or(|g| g.is_from("cap") && !g.is_from("ca") && !g.is_from("cab") && !g.is_from(""))
            );
        }
        assert!(Greeting::parse(b"git-upload-pack /\xff/app.git\0").is_none());
    }
}
