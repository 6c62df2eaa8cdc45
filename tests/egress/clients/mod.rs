//! Real clients, unmodified, that know of the proxy what a bottle's environment tells them and nothing else.
//!
//! The real Claude Code asks through it in `tests/session.rs`, from a whole bottle.

mod packages;
mod place;

use anyhow::{Context, Result, ensure};
use bottle_tests::lab::output;
use place::Place;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
};

/// What a client must move whole.
const MEGABYTES_50: usize = 50 << 20;

/// Clients that `cargo xtask setup` has fetched.
fn fetched(path: &str) -> Result<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let file = root.join("target/lab/clients").join(path);
    ensure!(file.exists(), "{} is not there; run `cargo xtask setup` first", file.display());
    Ok(file)
}

#[test]
fn curl_in_both_protocols() -> Result<()> {
    Place::with(&["curl.example"], |place| {
        for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let mut curl = place.client("curl");
            let said =
                output(curl.args(["-sS", "--fail", protocol, "-w", "%{http_version}", "https://curl.example/hello"]))?;
            ensure!(said == format!("GET /hello\n{version}"), "{said}");
        }
        ensure!(place.origin.connections().iter().any(|connection| connection.h2), "the origin speaks HTTP/2, too");
        // One without a route says so, in words.
        let refused = output(place.client("curl").args(["-sS", "https://nowhere.example/"]))?;
        ensure!(refused.contains("\"rule\":\"host\""), "{refused}");
        Ok(())
    })
}

#[test]
fn curl_moves_50_megabytes_either_way() -> Result<()> {
    Place::with(&["curl.example"], |place| {
        let (upload, download) = (place.home.path().join("upload"), place.home.path().join("download"));
        fs::write(&upload, vec![b'u'; MEGABYTES_50])?;
        for protocol in ["--http1.1", "--http2"] {
            let data = format!("@{}", upload.display());
            let mut curl = place.client("curl");
            curl.args(["-sS", "--fail", protocol, "--data-binary", &data, "https://curl.example/length"]);
            let said = output(&mut curl)?;
            ensure!(said == MEGABYTES_50.to_string(), "{protocol}: {said} bytes arrived");
            let url = format!("https://curl.example/bytes?{MEGABYTES_50}");
            output(place.client("curl").args(["-sS", "--fail", protocol, &url, "-o"]).arg(&download))?;
            let bytes = fs::read(&download)?;
            ensure!(
                bytes.len() == MEGABYTES_50 && bytes.iter().all(|byte| *byte == b'z'),
                "{protocol}: {}",
                bytes.len()
            );
        }
        Ok(())
    })
}

/// The second event is sent when the first one has arrived, and so never by a proxy that waits for more.
#[test]
fn events_arrive_as_they_are_sent() -> Result<()> {
    Place::with(&["curl.example"], |place| {
        for protocol in ["--http1.1", "--http2"] {
            let mut curl = place.client("curl");
            curl.args(["-sSN", "-m", "20", "--fail", protocol, "https://curl.example/events"]).stdout(Stdio::piped());
            let mut child = curl.spawn().context("run curl")?;
            let (mut stdout, mut line) = (BufReader::new(child.stdout.take().context("its output")?), String::new());
            stdout.read_line(&mut line)?;
            ensure!(line == "data: first\n", "{protocol}: {line:?}");
            place.origin.go_on();
            stdout.read_to_string(&mut line)?;
            ensure!(child.wait()?.success() && line.ends_with("data: second\n\n"), "{protocol}: {line:?}");
        }
        Ok(())
    })
}

#[test]
fn git_clones_and_does_not_push() -> Result<()> {
    Place::with(&["git.example"], |place| {
        let (work, bare, clone) =
            (place.home.path().join("work"), place.home.path().join("bare"), place.home.path().join("clone"));
        let git = |at: &Path| {
            let mut git = place.client("git");
            git.args(["-c", "user.name=x", "-c", "user.email=x@example", "-C"]).arg(at);
            git
        };
        fs::create_dir(&work)?;
        fs::write(work.join("file"), vec![b'g'; 100_000])?;
        output(git(&work).args(["init", "-q", "-b", "main"]))?;
        output(git(&work).args(["add", "."]))?;
        output(git(&work).args(["commit", "-qm", "first"]))?;
        output(git(&work).args(["clone", "-q", "--bare", "."]).arg(&bare))?;
        output(git(&bare).arg("update-server-info"))?;
        place.serve(&bare, "/x.git")?;
        output(git(place.home.path()).args(["clone", "-q", "https://git.example/x.git"]).arg(&clone))?;
        ensure!(fs::read(clone.join("file"))? == fs::read(work.join("file"))?, "another file");
        let heads = [&work, &clone].map(|at| output(git(at).args(["rev-parse", "HEAD"])));
        ensure!(heads[0].as_ref().ok() == heads[1].as_ref().ok(), "{heads:?}");
        let pushed = git(&clone).args(["push", "origin", "main:other"]).output()?;
        let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
        ensure!(!pushed.status.success() && said.contains("403"), "{said}");
        Ok(())
    })
}

#[test]
fn python_requests() -> Result<()> {
    Place::with(&["python.example"], |place| {
        let script = "import requests
s = requests.Session()
for n in range(3):
    r = s.post('https://python.example/hello', json={'n': n}, timeout=20)
    assert (r.status_code, r.text) == (200, 'POST /hello\\n'), (r.status_code, r.text)
r = s.get('https://nowhere.example/', timeout=20)
assert r.status_code == 403 and r.json()['error']['rule'] == 'host', r.text
print('done')";
        let said = output(place.client(fetched("python/bin/python")?).args(["-c", script]))?;
        ensure!(said == "done\n", "{said}");
        Ok(())
    })
}

#[test]
fn python_websockets() -> Result<()> {
    Place::with(&["python.example"], |place| {
        let script = "import asyncio, websockets
async def main():
    async with websockets.connect('wss://python.example/socket') as socket:
        for message in ['hello', b'\\x00\\x01', 'x' * 200000]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    try:
        await websockets.connect('wss://nowhere.example/socket')
    except websockets.exceptions.InvalidStatus as refused:
        assert refused.response.status_code == 403, refused
    print('done')
asyncio.run(main())";
        let said = output(place.client(fetched("python/bin/python")?).args(["-c", script]))?;
        ensure!(said == "done\n", "{said}");
        Ok(())
    })
}

/// Node reads no proxy variables by itself before its version 24; its own library does, and it is told to use it.
#[test]
fn nodes_fetch() -> Result<()> {
    Place::with(&["node.example"], |place| {
        let undici = fetched("node/node_modules/undici")?;
        let script = format!(
            "const {{ EnvHttpProxyAgent, setGlobalDispatcher }} = require({undici:?});
setGlobalDispatcher(new EnvHttpProxyAgent());
(async () => {{
  for (let n = 0; n < 3; n++) {{
    const r = await fetch('https://node.example/hello', {{ method: 'POST', body: 'x'.repeat(100000) }});
    const text = await r.text();
    if (r.status !== 200 || text !== 'POST /hello\\n') throw new Error(r.status + text);
  }}
  const r = await fetch('https://nowhere.example/');
  if (r.status !== 403 || (await r.json()).error.rule !== 'host') throw new Error('' + r.status);
  console.log('done');
}})();"
        );
        let said = output(place.client("node").args(["-e", &script]))?;
        ensure!(said == "done\n", "{said}");
        Ok(())
    })
}
