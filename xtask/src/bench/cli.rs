//! A bottle's resources by the docker command, in the order in which the Python program ran it: what our bottle
//! replaces. Images, networks and hardening are those of our own bottle.

use super::{
    place::{AGENT, EGRESS, IMAGE, INTERNAL, Place, SIDECAR},
    raw::{Container, Recording},
};
use anyhow::{Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The bottle up, its agent run, the bottle down. Returns how much of it `docker build` took.
///
/// What the program's provisioning did beyond this is left out: the one-shot container that made its sidecar's
/// certificates and the copies into the sidecar.
pub(super) fn up_and_down(place: &Place, recording: &Recording) -> Result<Duration> {
    let docker = |words: &[&str]| docker(place, words);
    let fine = |words: &[&str]| fine(place, words);
    let [ca, prompt] = ["etc/bottle/ca.pem", "home/agent/.bottle/prompt.md"].map(|path| {
        let file = place.context.with_file_name("files").join(path);
        file.display().to_string()
    });

    // prepare: require_docker, container_exists, runsc_available
    fine(&["info"])?;
    docker(&["container", "inspect", AGENT])?;
    fine(&["info", "--format", "{{json .Runtimes}}"])?;
    // launch: build_image, network_exists and network_create twice
    let building = Instant::now();
    fine(&["build", "-t", IMAGE, &place.context.display().to_string()])?;
    let building = building.elapsed();
    for (name, network) in [(INTERNAL, &recording.internal), (EGRESS, &recording.egress)] {
        docker(&["network", "inspect", name])?;
        let flags = network_flags(network);
        fine(&[&["network", "create"][..], &words(&flags), &[name]].concat())?;
    }
    // proxy.start
    let flags = container_flags(&recording.sidecar);
    let command = [image(&recording.sidecar)];
    fine(&[&["create", "-i", "--name", SIDECAR, "--network", INTERNAL][..], &words(&flags), &command].concat())?;
    let address = address(&recording.sidecar.egress);
    fine(&["network", "connect", "--ip", &address, EGRESS, SIDECAR])?;
    fine(&["start", SIDECAR])?;
    // _run_agent_container, its environment and its `sleep infinity`
    let flags = container_flags(&recording.agent);
    let command = ["--entrypoint", "/usr/local/bin/claude", image(&recording.agent), "stay"];
    let env = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
    let env: Vec<String> = env.iter().flat_map(|name| ["-e".to_owned(), format!("{name}=/some/value")]).collect();
    let run = ["run", "--rm", "-d", "--name", AGENT, "--network", INTERNAL];
    fine(&[&run[..], &words(&env), &words(&flags), &command].concat())?;
    // provision_ca, whose `update-ca-certificates` is nothing here, and provision_prompt
    fine(&["cp", &ca, &format!("{AGENT}:/usr/local/ca.pem")])?;
    fine(&["exec", "-u", "0", AGENT, "claude"])?;
    fine(&["cp", &prompt, &format!("{AGENT}:/home/agent/prompt.md")])?;
    // the session
    fine(&["exec", AGENT, "claude"])?;
    // teardown: force_remove_container, proxy.stop, network_remove twice
    fine(&["container", "inspect", AGENT])?;
    docker(&["rm", "-f", AGENT])?;
    docker(&["rm", "-f", SIDECAR])?;
    for name in [EGRESS, INTERNAL] {
        fine(&["network", "inspect", name])?;
        fine(&["network", "rm", name])?;
    }
    Ok(building)
}

/// Runs the command; whether it liked it.
fn docker(place: &Place, words: &[&str]) -> Result<bool> {
    Ok(place.docker().args(words).output()?.status.success())
}

fn fine(place: &Place, words: &[&str]) -> Result<()> {
    let out = place.docker().args(words).output()?;
    if !out.status.success() {
        bail!("docker {}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

fn image(container: &Container) -> &str {
    container.body["Image"].as_str().unwrap_or_default()
}

fn address(leg: &Value) -> String {
    leg["IPAMConfig"]["IPv4Address"].as_str().unwrap_or_default().to_owned()
}

fn network_flags(network: &Value) -> Vec<String> {
    let config = &network["IPAM"]["Config"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut flags = vec!["--subnet".into(), text(&config["Subnet"]), "--gateway".into(), text(&config["Gateway"])];
    flags.extend((network["Internal"] == true).then(|| "--internal".to_owned()));
    flags.extend(pairs(&network["Options"]).flat_map(|pair| ["-o".into(), pair]));
    flags
}

/// The hardening of a container, in the command's own words.
fn container_flags(container: &Container) -> Vec<String> {
    let (body, host) = (&container.body, &container.body["HostConfig"]);
    let mut flags = vec!["--ip".to_owned(), address(&container.internal)];
    let mut flag = |name: &str, value: String| flags.extend([format!("--{name}"), value]);
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    for (name, field) in
        [("cap-drop", "CapDrop"), ("security-opt", "SecurityOpt"), ("dns", "Dns"), ("dns-search", "DnsSearch")]
    {
        texts(&host[field]).into_iter().for_each(|text| flag(name, text));
    }
    for (name, field) in [("memory", "Memory"), ("memory-swap", "MemorySwap"), ("pids-limit", "PidsLimit")] {
        if host[field].as_i64().is_some_and(|n| n != 0) {
            flag(name, host[field].to_string());
        }
    }
    for limit in host["Ulimits"].as_array().into_iter().flatten() {
        let name = limit["Name"].as_str().unwrap_or_default();
        flag("ulimit", format!("{name}={}:{}", limit["Soft"], limit["Hard"]));
    }
    pairs(&host["Sysctls"]).for_each(|pair| flag("sysctl", pair));
    pairs(&host["Tmpfs"]).for_each(|pair| flag("tmpfs", pair.replacen('=', ":", 1)));
    texts(&container.internal["Aliases"]).into_iter().for_each(|alias| flag("network-alias", alias));
    texts(&body["Env"]).into_iter().for_each(|pair| flag("env", pair));
    flag("user", body["User"].as_str().unwrap_or_default().to_owned());
    flag("log-driver", host["LogConfig"]["Type"].as_str().unwrap_or("none").to_owned());
    flags.extend((host["ReadonlyRootfs"] == true).then(|| "--read-only".to_owned()));
    flags
}

fn pairs(map: &Value) -> impl Iterator<Item = String> + '_ {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
}
