//! How a bottle's containers and processes stand, as the engine and the kernel tell it.

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN},
    lab::Lab,
    running::Running,
    standin::Standin,
    wire::Authority,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt};

const MIB: i64 = 1 << 20;

#[test]
fn agent_and_sidecar_have_nothing_that_they_do_not_need() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    home.write(".claude-bottle/agents/dev.md", "---\nbottle: limited\n---\n")?;
    let route = format!("{{host: api.anthropic.com, address: {}}}", standin.address);
    let limits = "limits: {memory: 1g, cpus: 1.5, pids: 300}";
    home.write(".claude-bottle/bottles/limited.md", &format!("---\n{limits}\negress: {{routes: [{route}]}}\n---\n"))?;
    let bottle = Running::start(lab, &home)?;

    let handed_out = json!(["SETUID", "SETGID", "SETPCAP"]);
    for (role, added, memory, pids, cpus, read_only) in [
        ("agent", &Value::Null, 1024 * MIB, 300, 1_500_000_000_i64, false),
        ("sidecar", &handed_out, 512 * MIB, 256, 0, true),
    ] {
        let found: Value = serde_json::from_str(&lab.docker(&["inspect", &bottle.container(role)?])?)?;
        let config = &found[0]["HostConfig"];
        for (name, expected) in [
            ("CapDrop", json!(["ALL"])),
            ("CapAdd", added.clone()),
            ("SecurityOpt", json!(["no-new-privileges"])),
            ("Privileged", json!(false)),
            ("ReadonlyRootfs", json!(read_only)),
            ("Memory", json!(memory)),
            ("MemorySwap", json!(memory)),
            ("PidsLimit", json!(pids)),
            ("NanoCpus", json!(cpus)),
            ("Ulimits", json!([{"Name": "core", "Hard": 0, "Soft": 0}])),
            ("RestartPolicy", json!({"Name": "", "MaximumRetryCount": 0})),
            ("PidMode", json!("")),
            ("IpcMode", json!("private")),
            ("UTSMode", json!("")),
            ("UsernsMode", json!("")),
        ] {
            assert_eq!(config[name], expected, "{name} of the {role}");
        }
        for empty in
            ["Binds", "Devices", "DeviceRequests", "DeviceCgroupRules", "VolumesFrom", "Mounts", "PortBindings"]
        {
            let is_empty = config[empty].as_array().is_none_or(Vec::is_empty)
                && config[empty].as_object().is_none_or(|o| o.is_empty());
            assert!(is_empty, "{empty} of the {role}: {}", config[empty]);
        }
        assert_eq!(config["LogConfig"]["Type"], "none", "{role}");
        assert_eq!(found[0]["Mounts"], json!([]), "{role}");

        let mut users = BTreeSet::new();
        let pids = bottle.processes(role)?;
        for pid in &pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let value = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
            };
            for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(value(name), "0".repeat(16), "{name} of {pid}, the {role}");
            }
            assert_eq!((value("NoNewPrivs").as_str(), value("Seccomp").as_str()), ("1", "2"), "{pid}, the {role}");
            let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("its limits")?;
            assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{pid}, the {role}");
            let uid = value("Uid");
            assert!(uid.split(' ').all(|id| id != "0"), "{pid}, the {role}: {uid}");
            // What the kernel gives to root is of a process that nobody else may look into.
            let owner = fs::metadata(format!("/proc/{pid}/environ"))?.uid();
            assert!(role == "agent" || owner == 0, "{pid}, the {role}, is dumpable");
            users.insert(uid);
        }
        // The bundle and its daemons share no user; the agent has but one.
        assert_eq!(users.len(), if role == "sidecar" { 3 } else { 1 }, "{role}: {users:?} of {pids:?}");
    }
    bottle.end().map(drop)
}
