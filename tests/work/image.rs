//! On Docker a working directory comes along in an image of the bottle's own.

use crate::place::Place;
use anyhow::{Result, ensure};
use bottle_tests::bottle::{Run, contains, eventually, identity_in};

#[test]
fn the_image_of_a_working_directory_goes_with_its_bottle_even_after_sigkill() -> Result<()> {
    let place = Place::new()?;
    let mut points = 0;
    // The image's container and the image are announced after the networks and the sidecar, in any order with the last.
    for at in
        ["ledger-intent:4", "ledger-created:4", "ledger-intent:5", "ledger-created:5", "ledger-gone:1", "launched:1"]
    {
        for how in if at == "ledger-created:5" { &["kill", "error", "term"][..] } else { &["kill"] } {
            let fault = format!("{how}@{at}");
            let run: Run = place.command(true, &["true"]).env("CLAUDE_BOTTLE_FAULT", &fault).output()?.into();
            assert_ne!(run.code, Some(0), "{fault}: {run:?}");
            if *how == "kill" {
                let cleanup = place.home.run(&["cleanup", "--yes"])?;
                assert!(cleanup.code == Some(0) && cleanup.stderr.contains("is saved first"), "{fault}: {cleanup:?}");
            }
            let left = place.left(&identity_in(&run.stderr)?)?;
            ensure!(left.is_empty(), "{fault}: {left:?}");
            points += 1;
        }
    }
    println!("{points} points");
    // It has the name that it is given, and runs by its id.
    let name = format!("bottle-test-cwd-{}:x", std::process::id());
    let mut command = place.command(true, &["until [ -e done ]; do sleep 0.1; done"]);
    let child = command.env("CLAUDE_BOTTLE_DERIVED_IMAGE", &name).spawn()?;
    let identity = eventually("the bottle is up", || place.home.listed().first().cloned())?;
    let image = place.lab.docker(&["image", "inspect", "-f", "{{.Id}} {{json .Config.Labels}}", &name])?;
    assert!(contains(image.as_bytes(), identity.as_bytes()), "{image}");
    let label = format!("label=claude-bottle.identity={identity}");
    let filter = ["ps", "-q", "--filter", &label, "--filter", "label=claude-bottle.role=agent"];
    let agent = place.lab.docker(&filter)?;
    let runs = place.lab.docker(&["inspect", "-f", "{{.Config.Image}}", agent.trim()])?;
    assert!(image.starts_with(runs.trim()), "{runs} {image}");
    eventually("it is told to end", || {
        place.home.run(&["exec", &identity, "--", "touch", "done"]).ok().filter(|run| run.code == Some(0))
    })?;
    let run: Run = child.wait_with_output()?.into();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(place.lab.docker(&["image", "inspect", &name]).is_err(), "{name} is left");
    Ok(())
}
