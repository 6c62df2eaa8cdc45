//! A conversation of two megabytes through the staged sidecar, with TLS on both sides: what looks like a secret arrives byte
//! by byte, and of what is one nothing but its mark.

use anyhow::{Context, Result, ensure};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bottle_policy::{Auth, AuthScheme, EnvSecret, Policy, Route, Scan};
use bottle_tests::{
    netns::Namespace,
    origin::Origin,
    sidecar::Sidecar,
    wire::{Answer, Authority, Hello, read_answer},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};
use std::{
    env,
    io::Write,
    net::{IpAddr, Ipv4Addr},
};

const SIZE: usize = 2 << 20;
const MODEL: &str = "api.anthropic.com";
const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
const SEED_ENV: &str = "BOTTLE_SEED";
const ALNUM: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// What the sidecar knows: the name that a mark has, its name among the secrets.
const SECRETS: [(&str, &str); 4] = [
    ("AGENT_SECRET", "env:AGENT_SECRET"),
    ("DB_PASSWORD", "env:DB_PASSWORD"),
    ("FORGE_TOKEN", "$FORGE_TOKEN"),
    ("model-credential", "model-credential"),
];
/// The forms in which each is said.
const FORMS: [fn(&str) -> String; 6] = [
    |value| value.to_owned(),
    |value| BASE64_STANDARD.encode(format!("user:{value}")),
    |value| BASE64_URL_SAFE_NO_PAD.encode(value),
    |value| value.bytes().map(|byte| format!("{byte:02x}")).collect(),
    |value| value.bytes().map(|byte| format!("%{byte:02X}")).collect(),
    |value| value.chars().rev().collect(),
];

struct Dice(StdRng);

impl Dice {
    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(alphabet[self.0.gen_range(0..alphabet.len())])).collect()
    }

    fn hex(&mut self, length: usize) -> String {
        self.text(b"0123456789abcdef", length)
    }

    fn base64(&mut self, bytes: usize) -> String {
        BASE64_STANDARD.encode((0..bytes).map(|_| self.0.r#gen()).collect::<Vec<u8>>())
    }

    fn lines(&mut self, count: usize, line: impl Fn(&mut Self) -> String) -> String {
        (0..count).map(|_| line(self) + "\n").collect()
    }

    /// What a tool may print, and an agent may be shown.
    fn content(&mut self, kind: usize) -> Value {
        let text = match kind {
            0 => {
                let data = self.base64(60_000);
                let source = json!({"type": "base64", "media_type": "image/png", "data": data});
                return json!({"type": "image", "source": source});
            }
            1 => self.lines(400, |d| format!("{}-{}-4{}-a{}-{}", d.hex(8), d.hex(4), d.hex(3), d.hex(3), d.hex(12))),
            2 => self.lines(300, |d| format!("{}  src/{}.rs", d.hex(64), d.text(ALNUM, 9))),
            3 => self
                .lines(300, |d| format!("commit {}\nAuthor: A <a@example.org>\n\n    index {}", d.hex(40), d.hex(7))),
            4 => self.lines(200, |d| {
                format!("[[package]]\nname = \"p\"\nversion = \"1.0.3\"\nchecksum = \"{}\"", d.hex(64))
            }),
            5 => self.lines(200, |d| format!("\"node_modules/p\": {{\"integrity\": \"sha512-{}\"}},", d.base64(64))),
            6 => self.lines(1, |d| {
                let part = |d: &mut Dice| {
                    format!("function {}(t,e){{return t[{}]^e.{}}}", d.text(ALNUM, 2), d.hex(3), d.text(ALNUM, 3))
                };
                (0..900).map(|_| part(d)).collect()
            }),
            7 => {
                self.lines(1, |d| format!("{{\"version\":3,\"mappings\":\"{}\"}}", d.text(b"ACEIKSUWYagiq,;", 30_000)))
            }
            8 => self.lines(80, |d| {
                format!(
                    "https://cdn.example.org/{}/b.js?v={}&etag=W%2F%22{}%22",
                    d.hex(40),
                    d.hex(8),
                    d.text(ALNUM, 27)
                )
            }),
            _ => self.lines(400, |_| "The borrow ends where the last use is; see the chapter on lifetimes.".into()),
        };
        json!({"type": "text", "text": text})
    }
}

/// A body in which secrets stand: pieces of text, between each two of them a slot.
struct Body {
    texts: Vec<String>,
    /// Of each slot which secret, and the form of it.
    slots: Vec<(usize, String)>,
}

impl Body {
    fn new(dice: &mut Dice, values: &[String]) -> Result<Self> {
        let mut slots: Vec<(usize, String)> =
            (0..values.len()).flat_map(|n| FORMS.iter().map(move |form| (n, form(&values[n])))).collect();
        slots.shuffle(&mut dice.0);
        let slot = |n: usize| format!("<<slot {n}>>");
        let (mut content, mut size, mut next) = (vec![], 0, 0);
        while size < SIZE {
            for kind in 0..10 {
                content.push(dice.content(kind));
                size += content.last().map_or(0, |part: &Value| part.to_string().len());
                if next < slots.len() {
                    // JSON within JSON, and a line of a file.
                    let text = match next % 2 {
                        0 => json!({"output": {"value": slot(next)}}).to_string(),
                        _ => format!("# .env\nVALUE={}\n# end", slot(next)),
                    };
                    content.push(json!({"type": "text", "text": text}));
                    next += 1;
                }
            }
        }
        ensure!(next == slots.len(), "only {next} slots");
        let messages = json!([{"role": "user", "content": content}]);
        let whole = json!({"model": "claude", "max_tokens": 1, "messages": messages}).to_string();
        let (mut texts, mut rest) = (vec![], whole.as_str());
        for n in 0..slots.len() {
            let (before, after) = rest.split_once(&slot(n)).context("a slot")?;
            texts.push(before.to_owned());
            rest = after;
        }
        texts.push(rest.to_owned());
        Ok(Self { texts, slots })
    }

    /// With something in each slot.
    fn with(&self, fill: impl Fn(usize) -> String) -> String {
        let slots = (0..self.slots.len()).map(fill).chain([String::new()]);
        self.texts.iter().cloned().zip(slots).map(|(text, slot)| text + &slot).collect()
    }
}

fn policy(upstream_ca_pem: String) -> Policy {
    let secret = |(name, secret): (&str, &str)| EnvSecret { name: name.into(), secret: secret.into(), hosts: vec![] };
    let env = SECRETS.into_iter().filter(|(_, secret)| secret.starts_with("env:")).map(secret).collect();
    let model = Route {
        ports: vec![443],
        address: Some(ORIGIN),
        strip_credentials: true,
        auth: Some(Auth { scheme: AuthScheme::Bearer, secret: "model-credential".into() }),
        conversation: true,
        ..Route::to(MODEL)
    };
    Policy {
        routes: vec![model],
        upstream_ca_pem: Some(upstream_ca_pem),
        scan: Scan { env, ..Scan::default() },
        ..Policy::default()
    }
}

fn ask(sidecar: &Sidecar, body: &str) -> Result<Answer> {
    let mut tls = sidecar.client.tls(&format!("{MODEL}:443"), MODEL, Hello::default())?;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: {MODEL}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(head.as_bytes())?;
    tls.write_all(body.as_bytes())?;
    read_answer(&mut tls)
}

#[test]
fn two_megabytes_arrive_as_they_were_but_for_the_secrets_in_them() -> Result<()> {
    let seed = match env::var(SEED_ENV) {
        Ok(text) => text.parse()?,
        Err(_) => StdRng::from_entropy().gen_range(0..u64::from(u32::MAX)),
    };
    println!("the seed is {seed}; again with {SEED_ENV}={seed}");
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    let values: Vec<String> = SECRETS.iter().map(|_| dice.text(ALNUM, 36)).collect();
    let body = Body::new(&mut dice, &values)?;
    let (harmless, telling) = (body.with(|_| "nothing".into()), body.with(|n| body.slots[n].1.clone()));
    Namespace::new()?.run(|| {
        let authority = Authority::new()?;
        let origin = Origin::start(&authority, &[MODEL])?;
        let known: Vec<(&str, &str)> =
            SECRETS.iter().zip(&values).map(|((_, name), value)| (*name, &**value)).collect();
        let sidecar = Sidecar::start_knowing(SIDECAR, &policy(authority.pem.clone()), None, &known)?;
        let sent = |body: &str| -> Result<String> {
            origin.begin_anew();
            let answer = ask(&sidecar, body)?;
            ensure!(answer.status == 200, "{answer:?}");
            let requests = origin.requests();
            let [seen] = &requests[..] else { anyhow::bail!("{} requests arrived", requests.len()) };
            ensure!(seen.header("authorization") == Some(&format!("Bearer {}", values[3])), "not the real credential");
            let length: usize = seen.header("content-length").context("its length")?.parse()?;
            ensure!(length == seen.body.len(), "{length} bytes announced, {} arrived", seen.body.len());
            Ok(String::from_utf8(seen.body.to_vec())?)
        };
        ensure!(sent(&harmless)? == harmless, "a conversation without a secret was changed");
        let arrived = sent(&telling)?;
        let found = sidecar.log().into_iter().flat_map(|line| line.found).filter(|what| what.starts_with("redacted: "));
        ensure!(found.count() > 0, "nothing is in the log");
        assert_redacted(&body, &values, &arrived)?;
        serde_json::from_str::<Value>(&arrived).context("what was JSON is none any more")?;
        println!("{} bytes, {} secrets in {} forms", telling.len(), body.slots.len(), FORMS.len());
        Ok(())
    })
}

/// Every text is there, in its order and nothing else, and in each slot a mark instead of the secret.
fn assert_redacted(body: &Body, values: &[String], arrived: &str) -> Result<()> {
    let mut rest = arrived.strip_prefix(&*body.texts[0]).context("the beginning was changed")?;
    for ((n, (secret, form)), text) in body.slots.iter().enumerate().zip(&body.texts[1..]) {
        let mark = format!("[bottle:redacted {}]", SECRETS[*secret].0);
        // A text is longer than any slot: what stands before it is the slot.
        let end = rest.find(&**text).with_context(|| format!("the text behind slot {n}, {form}, was changed"))?;
        let slot = &rest[..end];
        ensure!(slot.contains(&mark), "slot {n}: {form} became {slot}");
        ensure!(*form != values[*secret] || slot == mark, "slot {n}: more than {form} is gone: {slot}");
        ensure!(slot.len() <= form.len() + mark.len(), "slot {n}: {form} became {slot}");
        // Of an encoded form not more than what its ends share with their neighbours.
        let left = slot.replace(&mark, "");
        ensure!(left.len() <= form.len() / 4, "slot {n}: {left} of {form} is left");
        rest = &rest[end + text.len()..];
    }
    ensure!(rest.is_empty(), "there is more: {rest}");
    for (value, form) in values.iter().flat_map(|value| FORMS.iter().map(move |form| (value, form(value)))) {
        ensure!(!arrived.contains(&form), "{value} arrived as {form}");
    }
    Ok(())
}
