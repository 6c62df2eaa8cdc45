//! `cargo xtask setup`: what the tests and the demo need of a bare Debian, as root. Quick where all is there already.

use crate::run::{host_target, output, root, run, sha256};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha512};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Debian packages that the lab and its base image are made of.
const PACKAGES: &[&str] = &[
    "gcc",
    "libc6-dev",
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "iptables",
    "iputils-ping",
    "openssl",
    "openssh-client",
    "openssh-server",
    "procps",
    "hostname",
    "openssh-client",
    "openssh-server",
    "util-linux",
    "bsdutils",
    "tmux",
];
/// Debian asks it whether a service may be started.
const SERVICES: &str = "/usr/sbin/policy-rc.d";
const NAMESPACE: &str = "bottle-lab";
/// The link between this machine and the lab's hosts (RFC 5737: documentation addresses, nobody's).
const LINK: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
/// All of it is the lab's own.
const HOSTS: &str = "198.51.100.128/25";

/// Which Docker engine the lab runs on. One at a time: they would share bridges and rules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// One that answers already, or Debian's own.
    Usual,
    /// Of Debian's next release, unpacked beside the system.
    Newer,
}

impl Engine {
    fn script(self) -> Command {
        let mut command = script("engine.sh");
        if self == Self::Newer {
            command.env("DOCKERD_SUITE", "trixie").env("DOCKERD_REUSE", "0");
            command.env("DOCKERD_DIR", "/var/tmp/bottle-lab/engine-newer");
        }
        command
    }
}

/// Makes the lab on the usual engine.
pub(crate) fn setup() -> Result<()> {
    setup_on(Engine::Usual)
}

/// Makes the lab.
pub(crate) fn setup_on(engine: Engine) -> Result<()> {
    ensure!(output(Command::new("id").arg("-u"))?.trim() == "0", "the lab needs root: it starts a Docker engine");
    install_packages(PACKAGES)?;
    let said = output(&mut engine.script())?;
    let docker_host = said.trim().strip_prefix("DOCKER_HOST=").context("engine.sh printed no DOCKER_HOST")?.to_owned();
    let lab = root().join("target/lab");
    fs::create_dir_all(&lab)?;
    let base_image = base_image(&lab, &docker_host)?;
    network()?;
    clients(&lab)?;
    claude(&lab, &Pin::read(OLDER_PINS)?)?;
    let json = serde_json::json!({ "docker_host": docker_host, "base_image": base_image });
    fs::write(lab.join("lab.json"), serde_json::to_vec_pretty(&json)?)?;
    eprintln!("xtask: the lab is up: {docker_host}, {base_image}, {HOSTS} in the network namespace {NAMESPACE}");
    Ok(())
}

/// Takes down what `setup` has started. Packages and images stay.
pub(crate) fn teardown() -> Result<()> {
    let _ = Command::new("ip").args(["netns", "del", NAMESPACE]).stderr(Stdio::null()).status();
    run(Engine::Newer.script().arg("--stop"))?;
    run(Engine::Usual.script().arg("--stop"))
}

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(root().join("xtask/scripts").join(name));
    command
}

pub(crate) fn install_packages(wanted: &[&str]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let lock = ["-o", "DPkg::Lock::Timeout=300", "-qq"];
        run(Command::new("apt-get")
            .args(lock)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    apt(&["update"])?;
    // Some bring a server. The tests start their own, and nobody asked for another one.
    let refuses = !Path::new(SERVICES).exists();
    if refuses {
        fs::write(SERVICES, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(SERVICES, fs::Permissions::from_mode(0o755))?;
    }
    let installed = apt(&[&["install", "-y", "--no-install-recommends"], &missing[..]].concat());
    if refuses {
        fs::remove_file(SERVICES)?;
    }
    installed
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Abbrev}", package]).output();
    query.is_ok_and(|out| out.stdout.starts_with(b"ii"))
}

/// The base image's name, built if the engine does not have it.
fn base_image(lab: &Path, docker_host: &str) -> Result<String> {
    let script_sum = sha256(&root().join("xtask/scripts/base-image.sh"))?;
    let pin = Pin::read(PINS)?;
    let name = format!("bottle-test-base:{}-{}", pin.version, &script_sum[..8]);
    let known = Command::new("docker").env("DOCKER_HOST", docker_host).args(["image", "inspect", &name]).output()?;
    if !known.status.success() {
        let claude = claude(lab, &pin)?;
        eprintln!("xtask: making the base image {name}");
        run(script("base-image.sh").arg(&name).arg(claude).env("DOCKER_HOST", docker_host))?;
    }
    Ok(name)
}

/// The Claude Code of the agent image's recipe, and the older one that the tests of `supervise` drive, too.
const PINS: &str = "backends/kit/recipes/claude.pins";
const OLDER_PINS: &str = "tests/supervise/claude.pins";

/// A pinned Claude Code.
struct Pin {
    version: String,
    package: String,
    integrity: String,
    sha256: String,
}

impl Pin {
    fn read(file: &str) -> Result<Self> {
        let (_, arch) = host_target()?;
        let text = fs::read_to_string(root().join(file))?;
        let word = |line: &str, n: usize| line.split_whitespace().nth(n).map(str::to_owned).context("claude.pins");
        let line = |first: &str| text.lines().find(|l| l.starts_with(&format!("{first} "))).context("claude.pins");
        let (version, own) = (line("version")?, line(arch)?);
        Ok(Self { version: word(version, 1)?, package: word(own, 1)?, integrity: word(own, 2)?, sha256: word(own, 3)? })
    }
}

/// The program, fetched by npm and held against both its hashes.
fn claude(lab: &Path, pin: &Pin) -> Result<PathBuf> {
    let program = lab.join(format!("claude-{}", pin.version));
    if program.exists() && sha256(&program)? == pin.sha256 {
        return Ok(program);
    }
    if Command::new("npm").arg("--version").output().is_err() {
        install_packages(&["npm"])?;
    }
    eprintln!("xtask: fetching {}@{}", pin.package, pin.version);
    let what = format!("{}@{}", pin.package, pin.version);
    let packed = output(Command::new("npm").args(["pack", "--silent", &what]).current_dir(lab))?;
    let tarball = lab.join(packed.lines().last().context("npm pack names a file")?.trim());
    let integrity = format!("{:x}", Sha512::digest(fs::read(&tarball)?));
    ensure!(integrity == pin.integrity, "{what} is not the package that is pinned: {integrity}");
    run(Command::new("tar")
        .arg("-xzf")
        .arg(&tarball)
        .args(["--strip-components=1", "package/claude"])
        .current_dir(lab))?;
    fs::rename(lab.join("claude"), &program)?;
    fs::remove_file(tarball)?;
    if sha256(&program)? != pin.sha256 {
        bail!("the program in {what} is not the one that is pinned");
    }
    Ok(program)
}

/// What the tests of the proxy run beside Debian's own clients.
const PYTHON_CLIENTS: [&str; 2] = ["requests==2.32.5", "websockets==15.0.1"];
/// Node's own `fetch` with a proxy; part of Node itself from version 24 on.
const NODE_CLIENT: &str = "undici@6.22.0";

/// Fetches the clients of [`PYTHON_CLIENTS`] and [`NODE_CLIENT`] unless they are there.
fn clients(lab: &Path) -> Result<()> {
    let (place, wanted) = (lab.join("clients"), format!("{PYTHON_CLIENTS:?} {NODE_CLIENT}"));
    let made = place.join("made");
    if fs::read_to_string(&made).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    eprintln!("xtask: fetching {wanted}");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    python_environment("python3", &place.join("python"), &PYTHON_CLIENTS)?;
    if Command::new("npm").arg("--version").output().is_err() {
        install_packages(&["npm"])?;
    }
    fs::create_dir_all(place.join("node"))?;
    run(Command::new("npm").args(["install", "--silent", "--no-save", NODE_CLIENT]).current_dir(place.join("node")))?;
    Ok(fs::write(made, wanted)?)
}

/// Makes an environment of Python's with these packages from PyPI.
pub(crate) fn python_environment(python: &str, place: &Path, packages: &[&str]) -> Result<()> {
    let whole = Command::new(python).args(["-c", "import ensurepip, venv"]).output();
    if !whole.is_ok_and(|out| out.status.success()) {
        install_packages(&["python3-venv"])?;
    }
    run(Command::new(python).args(["-m", "venv"]).arg(place))?;
    run(Command::new(place.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))
}

/// A network namespace that answers for every address of [`HOSTS`], behind a link that this machine routes to.
fn network() -> Result<()> {
    if Path::new("/run/netns").join(NAMESPACE).exists() && reaches() {
        return Ok(());
    }
    let _ = Command::new("ip").args(["netns", "del", NAMESPACE]).stderr(Stdio::null()).status();
    let _ = Command::new("ip").args(["link", "del", "bottle-lab0"]).stderr(Stdio::null()).status();
    for line in [
        format!("netns add {NAMESPACE}"),
        format!("link add bottle-lab0 type veth peer name lab0 netns {NAMESPACE}"),
        format!("addr add {}/30 dev bottle-lab0", LINK[0]),
        "link set bottle-lab0 up".into(),
        format!("-n {NAMESPACE} addr add {}/30 dev lab0", LINK[1]),
        format!("-n {NAMESPACE} link set lab0 up"),
        format!("-n {NAMESPACE} link set lo up"),
        format!("-n {NAMESPACE} route add default via {}", LINK[0]),
        format!("-n {NAMESPACE} route add local {HOSTS} dev lo table local"),
        format!("route add {HOSTS} via {}", LINK[1]),
    ] {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    ensure!(reaches(), "the lab's network does not answer");
    Ok(())
}

fn reaches() -> bool {
    let ping = Command::new("ping").args(["-c1", "-W1", "198.51.100.129"]).output();
    ping.is_ok_and(|out| out.status.success())
}
