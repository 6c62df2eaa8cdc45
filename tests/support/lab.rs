//! The lab that `cargo xtask setup` makes: a Docker engine, a base image with the real Claude Code, and a network
//! namespace whose addresses (198.51.100.128/25, RFC 5737) are the test hosts of this machine.

use crate::bottle::eventually;
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{FlockOperation, flock},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::{self, File},
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

const HINT: &str = "run `cargo xtask setup` first (as root; it installs and starts what is missing)";
const NAMESPACE: &str = "bottle-lab";
/// A file per address in use, locked for as long as it is.
const ADDRESSES: &str = "/var/tmp/bottle-lab/addresses";

/// What `cargo xtask setup` wrote down.
pub struct Lab {
    /// `unix://…`
    pub docker_host: String,
    /// The base image's name.
    pub base_image: String,
    /// The staged tree: `bin/bottle` and what belongs to it.
    pub stage: PathBuf,
    /// Where the tarball is, once `cargo xtask package` made it.
    pub dist: PathBuf,
}

/// The staged tree, for tests that need no lab beside it.
pub fn stage() -> PathBuf {
    let stage = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/stage");
    assert!(stage.join("bin/bottle").exists(), "nothing is staged; run `cargo xtask stage` first");
    stage
}

impl Lab {
    /// The lab, or a panic that says which command makes it.
    pub fn get() -> &'static Self {
        static LAB: OnceLock<Lab> = OnceLock::new();
        LAB.get_or_init(|| match Self::open() {
            Ok(lab) => lab,
            Err(error) => panic!("no lab: {error:#}; {HINT}"),
        })
    }

    fn open() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
        let file = root.join("target/lab/lab.json");
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let text = |key: &str| json[key].as_str().map(str::to_owned).with_context(|| format!("lab.json: {key}"));
        let lab = Self {
            docker_host: text("docker_host")?,
            base_image: text("base_image")?,
            stage: root.join("target/stage"),
            dist: root.join("dist"),
        };
        ensure!(lab.docker(&["version"]).is_ok(), "the engine at {} does not answer", lab.docker_host);
        ensure!(lab.stage.join("bin/bottle").exists(), "nothing is staged");
        ensure!(Path::new("/run/netns").join(NAMESPACE).exists(), "the network namespace {NAMESPACE} is not there");
        Ok(lab)
    }

    /// Runs the docker client against the lab's engine; its standard output.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        output(command.env("DOCKER_HOST", &self.docker_host).args(args))
    }

    /// An address of the lab that nobody else uses, in this or another run of tests. It is this process's to its end.
    pub fn address() -> Result<Ipv4Addr> {
        static HELD: Mutex<Vec<File>> = Mutex::new(vec![]);
        let claim = |host: u8| -> Result<File> {
            fs::create_dir_all(ADDRESSES)?;
            let file = File::create(format!("{ADDRESSES}/{host}"))?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        };
        let (host, file) = (130..=254).find_map(|host| Some((host, claim(host).ok()?))).context("a free address")?;
        HELD.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        Ok(Ipv4Addr::new(198, 51, 100, host))
    }

    /// Runs something in a thread that stands in the lab's network namespace. Sockets that it opens stay there.
    pub fn inside<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        thread::spawn(move || {
            let namespace = File::open(Path::new("/run/netns").join(NAMESPACE))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            run()
        })
        .join()
        .map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))?
    }

    /// A TCP listener in the lab.
    pub fn listen(address: SocketAddr) -> Result<TcpListener> {
        Self::inside(move || Ok(TcpListener::bind(address)?))
    }
}

/// Runs a command; its standard output, or an error with all that it said.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{command:?}: {status}: {stdout}{}", String::from_utf8_lossy(&stderr));
    }
    Ok(stdout)
}

/// A host that should see nothing: it counts every packet to its address, and takes every connection and datagram.
pub struct Target {
    /// Its address.
    pub address: Ipv4Addr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Target {
    /// Listens on TCP 80, 443 and 8000 and UDP and TCP 53 of a new address of the lab.
    pub fn new() -> Result<Self> {
        let address = Lab::address()?;
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        for port in [80, 443, 53, 8000] {
            let listener = Lab::listen((address, port).into())?;
            let seen = seen.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    note(&seen, format!("TCP {port} from {:?}", stream.peer_addr()));
                    let _ = (&stream).read(&mut [0; 1]);
                }
            });
        }
        let socket = Lab::inside(move || Ok(UdpSocket::bind((address, 53))?))?;
        let heard = seen.clone();
        thread::spawn(move || {
            while let Ok((n, from)) = socket.recv_from(&mut [0; 1500]) {
                note(&heard, format!("{n} bytes of UDP from {from}"));
            }
        });
        let target = Self { address, seen };
        target.iptables(&["-I", "PREROUTING", "-d", &address.to_string()])?;
        Ok(target)
    }

    /// Packets to its address so far, as the kernel counted them before anything could drop them.
    pub fn packets(&self) -> Result<u64> {
        let table = self.iptables(&["-nvxL", "PREROUTING"])?;
        let own = self.address.to_string();
        let line = table.lines().find(|line| line.split_whitespace().any(|word| word == own));
        let count = line.and_then(|line| line.split_whitespace().next()).context("the counter's rule")?;
        Ok(count.parse()?)
    }

    /// What arrived.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    fn iptables(&self, args: &[&str]) -> Result<String> {
        output(Command::new("ip").args(["netns", "exec", NAMESPACE, "iptables", "-w", "-t", "raw"]).args(args))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.iptables(&["-D", "PREROUTING", "-d", &self.address.to_string()]);
    }
}

fn note(seen: &Mutex<Vec<String>>, what: String) {
    if let Ok(mut seen) = seen.lock() {
        seen.push(what);
    }
}

/// Listens with TCP and UDP on every address of this machine, and should hear nothing.
pub struct Listeners {
    /// The port of both.
    pub port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listeners {
    /// On a free port; both have heard each kind of address before this returns.
    pub fn new() -> Result<Self> {
        let tcp = TcpListener::bind("[::]:0")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind(("::", port))?;
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let (connections, datagrams) = (heard.clone(), heard.clone());
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                note(&connections, format!("TCP from {:?}", stream.peer_addr()));
            }
        });
        thread::spawn(move || {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 16]) {
                note(&datagrams, format!("UDP from {from}"));
            }
        });
        for (address, any) in [("127.0.0.1", "0.0.0.0:0"), ("::1", "[::]:0")] {
            drop(TcpStream::connect((address, port))?);
            UdpSocket::bind(any)?.send_to(b"x", (address, port))?;
        }
        let listeners = Self { port, heard };
        eventually("the listeners hear", || (listeners.heard().len() == 4).then_some(()))?;
        listeners.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(listeners)
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts packets that this machine's kernel takes in, by a rule of its own ahead of everything else.
pub struct HostCounter {
    program: &'static str,
    rule: Vec<String>,
}

impl HostCounter {
    /// Packets to an address. `matching`: iptables' own words, `-i br-…`.
    pub fn to(address: IpAddr, matching: &[&str]) -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let name = format!("bottle-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let mut rule: Vec<String> = matching.iter().map(|word| (*word).to_owned()).collect();
        rule.extend(["-d", &address.to_string(), "-m", "comment", "--comment", &name].map(str::to_owned));
        let counter = Self { program: if address.is_ipv4() { "iptables" } else { "ip6tables" }, rule };
        counter.iptables("-I")?;
        Ok(counter)
    }

    /// How many so far.
    pub fn packets(&self) -> Result<u64> {
        let table = output(Command::new(self.program).args(["-w", "-t", "raw", "-nvxL", "PREROUTING"]))?;
        let name = self.rule.last().context("a rule has a name")?;
        let line = table.lines().find(|line| line.split_whitespace().any(|word| word == name));
        Ok(line.and_then(|line| line.split_whitespace().next()).context("the counter's rule")?.parse()?)
    }

    fn iptables(&self, verb: &str) -> Result<String> {
        output(Command::new(self.program).args(["-w", "-t", "raw", verb, "PREROUTING"]).args(&self.rule))
    }
}

impl Drop for HostCounter {
    fn drop(&mut self) {
        let _ = self.iptables("-D");
    }
}
