//! An image as one file, for machines that no engine runs: what `docker save` would write, with one layer that holds the
//! whole tree and the in-bottle helper.
//!
//! Packed from a container that never runs, and kept by what it is made of: an image is packed once, and again only when
//! it or the helper has changed. A file is there whole or not at all. When it was last used is its access time; its
//! modification time is always the same one: smolvm unpacks a file anew whose length or modification time has changed,
//! beneath the machines that run from it.

use crate::{
    carrier::Carrier,
    engine::{Engine, Stop},
    image::Platform,
    names::Role,
};
use bottle_api::{
    BottleSpec, Error, ErrorKind, HELPER_PATH, Host, Result,
    error::Context,
    provision::{FileEntry, pack},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, FileTimes},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

const LAYER: &str = "layer.tar";
const CONFIG: &str = "config.json";
/// A tar archive's records.
const RECORD: u64 = 512;
/// A packed image that was not used for so long makes way when another one is packed.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// The file of an image, packed if it is not there yet.
pub async fn archive(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    platform: &Platform,
    image: &str,
    cache: &Path,
    stop: &Stop,
) -> Result<PathBuf> {
    let file = cache.join(format!("{}.tar", name(image, &platform.helper)));
    if is_there(&file, SystemTime::now()) {
        return Ok(file);
    }
    host.step("pack the agent image for machines");
    fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    let inspected = engine.docker.inspect_image(image).await.context("look at the agent image")?;
    let config = inspected.config.unwrap_or_default();
    let about = json!({
        "architecture": inspected.architecture, "os": "linux",
        "config": {
            "Env": config.env, "WorkingDir": config.working_dir, "User": "0:0", "Cmd": [HELPER_PATH, "init"],
        },
    });

    let carrier = Carrier::create(engine, host, spec, Role::Export, image).await?;
    stop.check()?;
    let helper = pack(&[FileEntry::root(HELPER_PATH, &platform.helper[..]).mode(0o755)])?;
    carrier.put(helper).await?;
    // What another launch is packing, or was when it was killed, has a name of its own.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let draft = file.with_extension(format!("{}-{}.draft", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let written = stop.or(write(engine, &carrier.id, about, &draft)).await;
    let written = written.and_then(|()| fs::rename(&draft, &file).context("keep the packed image"));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.with_context(|| format!("pack the agent image into {}", file.display()))?;

    carrier.remove().await?;
    prune(cache, SystemTime::now());
    Ok(file)
}

/// Is the file there? Then it is used now.
fn is_there(file: &Path, now: SystemTime) -> bool {
    File::options().append(true).open(file).is_ok_and(|file| file.set_times(FileTimes::new().set_accessed(now)).is_ok())
}

/// Removes what nobody has used for long, the drafts of launches that were killed among it. One that cannot be removed
/// stays for the next time.
fn prune(cache: &Path, now: SystemTime) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = path.extension().is_some_and(|end| end == "tar" || end == "draft");
        let used = entry.metadata().and_then(|about| about.accessed());
        if ours && used.is_ok_and(|used| now.duration_since(used).is_ok_and(|idle| idle > KEPT)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// What a packed image is made of, as a name.
fn name(image: &str, helper: &[u8]) -> String {
    let helper = format!("{:x}", Sha256::digest(helper));
    format!("{}-{}", image.trim_start_matches("sha256:"), &helper[..16])
}

async fn write(engine: &Engine, container: &str, about: Value, to: &Path) -> Result<()> {
    let mut archive = Archive::begin(File::create(to)?)?;
    let mut chunks = engine.docker.export_container(container);
    while let Some(chunk) = chunks.next().await {
        archive.layer(&chunk.context("read the container's tree")?)?;
    }
    archive.finish(about)
}

/// The archive while it is written: the layer first, whose length is only known at its end.
struct Archive {
    to: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Archive {
    fn begin(to: File) -> Result<Self> {
        let mut to = BufWriter::with_capacity(1 << 20, to);
        to.write_all(&[0; RECORD as usize])?;
        Ok(Self { to, hash: Sha256::new(), bytes: 0 })
    }

    fn layer(&mut self, chunk: &[u8]) -> Result<()> {
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(self.to.write_all(chunk)?)
    }

    fn finish(mut self, mut about: Value) -> Result<()> {
        if self.bytes == 0 {
            return Err(Error::new(ErrorKind::RUNTIME, "the engine has sent nothing of the container's tree"));
        }
        let padding = self.bytes.next_multiple_of(RECORD) - self.bytes;
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.to)?;
        about["rootfs"] = json!({"type": "layers", "diff_ids": [format!("sha256:{:x}", self.hash.finalize())]});
        let manifest = json!([{"Config": CONFIG, "RepoTags": ["claude-bottle:machine"], "Layers": [LAYER]}]);
        let mut tar = tar::Builder::new(self.to);
        for (name, value) in [(CONFIG, &about), ("manifest.json", &manifest)] {
            let bytes = serde_json::to_vec(value)?;
            tar.append_data(&mut header(bytes.len() as u64), name, &bytes[..])?;
        }
        let mut file = tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut head = header(self.bytes);
        head.set_path(LAYER)?;
        head.set_cksum();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(head.as_bytes())?;
        file.set_modified(SystemTime::UNIX_EPOCH)?;
        Ok(file.sync_all()?)
    }
}

fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_file_is_what_an_engine_would_save() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        let mut archive = Archive::begin(File::create(&path).unwrap()).unwrap();
        for chunk in [&b"a tree, "[..], &[7; 1000]] {
            archive.layer(chunk).unwrap();
        }
        archive.finish(json!({"os": "linux"})).unwrap();
        let mut found = vec![];
        for entry in tar::Archive::new(File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = vec![];
            entry.read_to_end(&mut bytes).unwrap();
            found.push((entry.path().unwrap().display().to_string(), bytes));
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["layer.tar", "config.json", "manifest.json"]);
        assert_eq!(found[0].1, [&b"a tree, "[..], &[7; 1000]].concat());
        let config: Value = serde_json::from_slice(&found[1].1).unwrap();
        let hash = format!("sha256:{:x}", Sha256::digest(&found[0].1));
        assert_eq!((&config["os"], &config["rootfs"]["diff_ids"][0]), (&json!("linux"), &json!(hash)));
    }

    #[test]
    fn what_was_not_used_for_two_weeks_makes_way() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["old.tar", "killed.1-0.draft", "new.tar", "notes"] {
            let file = File::create(dir.path().join(name)).unwrap();
            let age = if name == "new.tar" { KEPT / 2 } else { KEPT * 2 };
            file.set_times(FileTimes::new().set_accessed(SystemTime::now() - age)).unwrap();
        }
        prune(dir.path(), SystemTime::now());
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["new.tar", "notes"]);
    }

    #[test]
    fn a_file_that_is_used_again_is_the_same_to_whoever_runs_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        let now = SystemTime::now();
        assert!(!is_there(&path, now));
        for _ in 0..2 {
            // Packed again it is the same, too.
            let mut archive = Archive::begin(File::create(&path).unwrap()).unwrap();
            archive.layer(b"a tree").unwrap();
            archive.finish(json!({})).unwrap();
            assert!(is_there(&path, now));
            let about = path.metadata().unwrap();
            assert_eq!((about.modified().unwrap(), about.accessed().unwrap()), (SystemTime::UNIX_EPOCH, now));
        }
    }

    #[test]
    fn another_image_or_another_helper_is_another_file() {
        let names = [name("sha256:aa", b"1"), name("sha256:ab", b"1"), name("sha256:aa", b"2")];
        assert!(names[0].starts_with("aa-") && names[0] != names[1] && names[0] != names[2], "{names:?}");
    }
}
