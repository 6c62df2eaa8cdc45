//! Package managers, asking their own registries by name: the origin stands in for these, with one package each.

use super::{fetched, place::Place};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::lab::output;
use sha2::{Digest, Sha256, Sha512};
use std::{fs, path::Path, process::Command};

/// A tar.gz of these files.
fn packed(place: &Place, files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let tree = place.home.path().join("tree");
    for (name, text) in files {
        let file = tree.join(name);
        fs::create_dir_all(file.parent().context("a file has a directory")?)?;
        fs::write(file, text)?;
    }
    let archive = place.home.path().join("packed.tar.gz");
    let top = files.first().and_then(|(name, _)| name.split('/').next()).context("a file")?;
    output(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&tree).arg(top))?;
    Ok(fs::read(archive)?)
}

#[test]
fn npm_installs() -> Result<()> {
    Place::with(&["registry.npmjs.org"], |place| {
        let manifest = r#"{"name":"tiny-of-tests","version":"1.0.0","main":"index.js"}"#;
        let tarball =
            packed(place, &[("package/package.json", manifest), ("package/index.js", "module.exports = 42\n")])?;
        let integrity = format!("sha512-{}", BASE64_STANDARD.encode(Sha512::digest(&tarball)));
        let url = "https://registry.npmjs.org/tiny-of-tests/-/tiny-of-tests-1.0.0.tgz";
        let packument = serde_json::json!({
            "name": "tiny-of-tests",
            "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": {"name": "tiny-of-tests", "version": "1.0.0", "dist": {"tarball": url, "integrity": integrity}}},
        });
        place.origin.page("/tiny-of-tests", packument.to_string());
        place.origin.page("/tiny-of-tests/-/tiny-of-tests-1.0.0.tgz", tarball);
        output(place.client("npm").args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "tiny-of-tests",
        ]))?;
        let said = output(place.client("node").args(["-p", "require('tiny-of-tests')"]))?;
        ensure!(said == "42\n", "{said}");
        Ok(())
    })
}

#[test]
fn pip_installs() -> Result<()> {
    Place::with(&["pypi.org", "files.pythonhosted.org"], |place| {
        let python = fetched("python/bin/python")?;
        let make = "import zipfile
z = zipfile.ZipFile('tiny_of_tests-1.0-py3-none-any.whl', 'w')
d = 'tiny_of_tests-1.0.dist-info/'
z.writestr('tiny_of_tests.py', 'value = 42\\n')
z.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-of-tests\\nVersion: 1.0\\n')
z.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
z.writestr(d + 'RECORD', '')
z.close()";
        output(place.client(&python).args(["-c", make]))?;
        let wheel = "tiny_of_tests-1.0-py3-none-any.whl";
        let bytes = fs::read(place.home.path().join(wheel))?;
        let sum = format!("{:x}", Sha256::digest(&bytes));
        let link = format!("<a href=\"https://files.pythonhosted.org/packages/{wheel}#sha256={sum}\">{wheel}</a>");
        place.origin.typed(
            "/simple/tiny-of-tests/",
            "text/html",
            format!("<!DOCTYPE html><html><body>{link}</body></html>"),
        );
        place.origin.page(&format!("/packages/{wheel}"), bytes);
        let install = ["-m", "pip", "install", "--disable-pip-version-check", "--target", "here", "tiny-of-tests"];
        output(place.client(&python).args(install))?;
        let read = "import sys; sys.path.insert(0, 'here'); import tiny_of_tests; print(tiny_of_tests.value)";
        let said = output(place.client(&python).args(["-c", read]))?;
        ensure!(said == "42\n", "{said}");
        Ok(())
    })
}

#[test]
fn cargo_fetches() -> Result<()> {
    Place::with(&["index.crates.io", "static.crates.io"], |place| {
        let manifest = "[package]\nname = \"tiny-of-tests\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
        let files = [
            ("tiny-of-tests-1.0.0/Cargo.toml", manifest),
            ("tiny-of-tests-1.0.0/src/lib.rs", "pub const VALUE: u8 = 42;\n"),
        ];
        let krate = packed(place, &files)?;
        let sum = format!("{:x}", Sha256::digest(&krate));
        let line = serde_json::json!({
            "name": "tiny-of-tests", "vers": "1.0.0", "deps": [], "cksum": sum, "features": {}, "yanked": false,
        });
        place.origin.page("/config.json", r#"{"dl":"https://static.crates.io/crates","api":"https://crates.io"}"#);
        place.origin.page("/ti/ny/tiny-of-tests", format!("{line}\n"));
        place.origin.page("/crates/tiny-of-tests/1.0.0/download", krate);
        let project = place.home.path().join("project");
        fs::create_dir_all(project.join("src"))?;
        fs::write(project.join("src/lib.rs"), "")?;
        fs::write(
            project.join("Cargo.toml"),
            manifest.replace("tiny-of-tests", "user") + "[dependencies]\ntiny-of-tests = \"1\"\n",
        )?;
        // The one that runs the tests: behind it there may be a proxy of its own that chooses a version.
        let cargo = std::env::var_os("CARGO").context("the tests are run by cargo")?;
        let beside = Path::new(&cargo).parent().context("cargo is somewhere")?.display().to_string();
        let path = format!("{beside}:{}", std::env::var("PATH")?);
        output(place.client(cargo).arg("fetch").env("PATH", path).current_dir(&project))?;
        let fetched =
            output(Command::new("find").arg(place.home.path().join(".cargo/registry/src")).args(["-name", "lib.rs"]))?;
        let file = fetched.lines().next().context("nothing was fetched")?;
        ensure!(fs::read_to_string(Path::new(file))?.contains("42"), "{fetched}");
        Ok(())
    })
}
