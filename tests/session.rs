//! A session: the real Claude Code in a real bottle, asking a stand-in for the model through the sidecar.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{ENV_SECRET, Home, REAL_TOKEN, assert_nothing_left, eventually, identity_in},
    lab::Lab,
    needle,
    pty::Pty,
    standin::Standin,
    target::Target,
    wire::Authority,
};
use rustix::process::Signal;
use std::io::Read;

fn home(credential: &str) -> Result<(&'static Lab, Standin, Home)> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], credential)?;
    let home = Home::new(lab, &authority, &standin)?;
    Ok((lab, standin, home))
}

#[test]
fn claude_answers_through_the_sidecar_and_never_holds_the_real_token() -> Result<()> {
    let (lab, standin, home) = home(&format!("Bearer {REAL_TOKEN}"))?;
    home.write(".claude/skills/greet/SKILL.md", "---\nname: greet\ndescription: greets whoever comes\n---\nhello\n")?;
    home.write(".claude-bottle/agents/dev.md", "---\nbottle: box\nskills: [greet]\n---\nYou are under test.\n")?;
    let (results, run) = home.play(&[
        "env; tr '\\0' '\\n' < /proc/$PPID/environ | grep CLAUDE_CODE_OAUTH_TOKEN",
        &needle::in_processes(REAL_TOKEN),
        &needle::in_files(REAL_TOKEN),
        "ls -l /proc/self/exe; id -u; grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status",
        "cat ~/.claude/settings.json; stat -c '%a %u' ~/.claude/skills/greet/SKILL.md ~/.bottle/prompt.md",
    ])?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(results[0].contains("CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-placeholder"), "{}", results[0]);
    // The agent has its own secret; the model is not told of it.
    assert!(results[0].contains("AGENT_SECRET=[bottle:redacted AGENT_SECRET]"), "{}", results[0]);
    assert!(results[0].contains("PLAIN=a literal"), "{}", results[0]);
    assert!(results[1].contains(&needle::in_no_process(REAL_TOKEN)), "does a process hold the token? {}", results[1]);
    assert!(results[2].contains(&needle::in_no_file(REAL_TOKEN)), "does a file hold the token? {}", results[2]);
    for line in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "\n1000\n"]
    {
        assert!(results[3].contains(line), "{line:?} is not in {}", results[3]);
    }
    assert!(results[4].ends_with("600 1000\n600 1000"), "{}", results[4]);

    let asked: Vec<_> = standin.seen().into_iter().filter(|s| s.path.starts_with("/v1/messages")).collect();
    assert!(!asked.is_empty());
    for request in asked {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {REAL_TOKEN}").as_str()));
        assert!(request.header("proxy-authorization").is_none() && request.header("x-api-key").is_none());
        assert!(request.header("anthropic-beta").is_some_and(|beta| beta.contains("oauth-")), "{request:?}");
    }
    let body = standin.seen().iter().map(|s| String::from_utf8_lossy(&s.body).into_owned()).collect::<String>();
    assert!(body.contains("You are under test."), "the system prompt did not arrive");
    assert!(body.contains("greets whoever comes"), "the skill did not arrive");
    assert!(!run.stderr.contains(REAL_TOKEN) && !run.stderr.contains(ENV_SECRET));
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)
}

#[test]
fn a_failing_agent_passes_its_code_on_and_its_log_is_kept() -> Result<()> {
    let (_, _, home) = home("Bearer another credential")?;
    let run = home.run(&["start", "dev", "--yes", "--prompt", "hello"])?;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("401"), "{run:?}");
    let log = home.egress_log();
    assert!(log.iter().any(|line| line["status"] == 401 && line["host"] == "api.anthropic.com:443"), "{log:?}");
    assert!(run.stderr.ends_with(&format!("resume with: bottle resume {}\n", identity_in(&run.stderr)?)), "{run:?}");
    assert!(home.run(&["cleanup"])?.stderr.contains("nothing to clean up"));
    let run = home.run(&["state", "rm", "--all", "--yes"])?;
    assert_eq!((run.code, home.identities().len()), (Some(0), 0), "{run:?}");
    Ok(())
}

#[test]
fn a_dry_run_and_a_refusal_create_nothing() -> Result<()> {
    let (_, standin, home) = home("")?;
    let run = home.run(&["start", "dev", "--dry-run"])?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.is_empty() && run.stderr.contains("AGENT_SECRET (secret, from $HOST_SECRET)"), "{run:?}");
    assert!(run.stderr.lines().all(|line| line.chars().count() <= 80 || line.contains("unix://")), "{}", run.stderr);
    let json = home.run(&["start", "dev", "--dry-run", "--format", "json"])?;
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    assert_eq!((&json["version"], &json["routes"][0]["host"]), (&1.into(), &"api.anthropic.com".into()));
    // Neither a terminal nor --yes: a usage error, before anything is created.
    let run = home.run(&["start", "dev", "--prompt", "x"])?;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--yes") && home.identities().is_empty(), "{run:?}");
    assert!(standin.seen().is_empty());
    Ok(())
}

#[test]
fn an_agent_of_the_working_directory_is_not_started_unseen() -> Result<()> {
    let (_, _, home) = home("")?;
    home.write("project/.claude-bottle/agents/dev.md", "---\nbottle: box\n---\nDo as I say.\n")?;
    let mut command = home.command(&["start", "dev", "--yes", "--prompt", "x"]);
    let output = command.current_dir(home.path().join("project")).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("comes with the working directory"), "{stderr}");
    let output = home.command(&["start", "dev", "--dry-run"]).current_dir(home.path().join("project")).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("shadows ~/.claude-bottle/agents/dev.md") && stderr.contains("Do as I say."), "{stderr}");
    // A bottle may keep them out altogether.
    home.write(".claude-bottle/bottles/box.md", "---\nproject_agents: deny\n---\n")?;
    let output = home.command(&["start", "dev", "--dry-run"]).current_dir(home.path().join("project")).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("`project_agents: deny`") && stderr.contains("hint: Copy what you trust"), "{stderr}");
    assert_eq!(home.run(&["start", "dev", "--dry-run"])?.code, Some(0), "the home's own agent is not kept out");
    Ok(())
}

#[test]
fn what_is_shown_without_a_bottle() -> Result<()> {
    let (_, _, home) = home("")?;
    let info = home.run(&["info", "dev"])?;
    assert_eq!(info.code, Some(0), "{info:?}");
    for text in ["dev  ~/.claude-bottle/agents/dev.md", "AGENT_SECRET (secret, from $HOST_SECRET)", "api.anthropic.com"]
    {
        assert!(info.stdout.contains(text), "{text}: {info:?}");
    }
    assert!(!info.stdout.contains(ENV_SECRET) && !info.stdout.contains("a literal"), "{info:?}");
    let doctor = home.run(&["--backend", home.target().backend(), "doctor"])?;
    let found = match home.target() {
        Target::Docker => "docker Docker engine ok Docker",
        Target::Namespace(_) => "a bottle was made and ended",
    };
    // However wide its columns are.
    let words = doctor.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(doctor.code == Some(0) && words.contains(found), "{doctor:?}");
    let output = home.command(&["--backend", "docker", "doctor"]).env("DOCKER_HOST", "unix:///nowhere").output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Start the engine there"));
    let list = home.run(&["list"])?;
    assert_eq!(list.stdout, "AGENT  BOTTLE  FILE\ndev    box     ~/.claude-bottle/agents/dev.md\n", "{list:?}");
    for (args, text) in
        [(&["completions", "bash"][..], "_bottle()"), (&["man"], ".TH bottle"), (&["start", "--help"], "--dry-run")]
    {
        let run = home.run(args)?;
        assert!(run.code == Some(0) && run.stdout.contains(text), "{args:?}: {run:?}");
    }
    Ok(())
}

#[test]
fn errors_say_what_to_type_next() -> Result<()> {
    let (_, _, home) = home("")?;
    for (args, code, texts) in [
        (&["start", "nobody", "--yes", "--prompt", "x"][..], 125, &["no agent `nobody`; there are: dev", "hint:"][..]),
        (
            &["start", "dev", "--backend", "nosuch", "--yes", "--prompt", "x"],
            125,
            &["unknown backend `nosuch`; known backends: docker", "hint:"],
        ),
        (&["start", "dev"], 2, &["--prompt TEXT"]),
        (&["start"], 2, &["Usage:"]),
        (&["list", "--backend"], 2, &["--backend"]),
    ] {
        let run = home.run(args)?;
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        texts.iter().for_each(|text| assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr));
    }
    let mut command = home.command(&["start", "dev", "--yes", "--prompt", "x"]);
    let output = command.env_remove("CLAUDE_BOTTLE_OAUTH_TOKEN").output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr.contains("neither CLAUDE_BOTTLE_OAUTH_TOKEN nor ANTHROPIC_API_KEY"), "{stderr}");
    let mut command = home.command(&["--backend", "docker", "start", "dev", "--yes", "--prompt", "x"]);
    let output = command.env("DOCKER_HOST", "unix:///nowhere/docker.sock").output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no Docker engine at unix:///nowhere/docker.sock") && stderr.contains("hint:"), "{stderr}");
    assert!(!stderr.contains("--backend namespace"), "{stderr}");
    // Where nobody has named it there is another one, which needs no engine.
    let mut command = home.command(&["start", "dev", "--yes", "--prompt", "x"]);
    let command = command.env_remove("CLAUDE_BOTTLE_BACKEND").env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let stderr = String::from_utf8_lossy(&command.output()?.stderr).into_owned();
    assert!(stderr.contains("no Docker engine") && stderr.contains("`bottle start --backend namespace …`"), "{stderr}");
    Ok(())
}

#[test]
fn list_active_shows_a_running_bottle_and_an_api_key_goes_as_one() -> Result<()> {
    let (lab, standin, home) = home("THE-REAL-API-KEY")?;
    let routes = format!("[{{host: api.anthropic.com, address: {}}}]", standin.address);
    home.write(".claude-bottle/bottles/net.md", &format!("---\negress: {{routes: {routes}}}\n---\n"))?;
    // An ordinary user has no control groups to limit memory and processors with: such a bottle is refused there.
    let target = home.target();
    let limits = if target.user().is_some() { "{pids: 300}" } else { "{memory: 1g, cpus: 1.5, pids: 300}" };
    home.write(".claude-bottle/bottles/box.md", &format!("---\nextends: net\nlimits: {limits}\n---\n"))?;
    let mut child = home
        .command(&["start", "dev", "--yes", "--prompt", "@@bash sleep 5; env | grep ANTHROPIC"])
        .env_remove("CLAUDE_BOTTLE_OAUTH_TOKEN")
        .env("ANTHROPIC_API_KEY", "THE-REAL-API-KEY")
        .spawn()?;
    let row = eventually("the bottle is listed", || {
        let list = home.run(&["list", "active", "--json"]).ok()?;
        let rows: serde_json::Value = serde_json::from_str(&list.stdout).ok()?;
        rows["bottles"].get(0).cloned()
    })?;
    assert_eq!((&row["backend"], &row["agent"]), (&target.backend().into(), &"dev".into()));
    assert_eq!(row["daemons"], serde_json::json!(["egress", "dns"]));
    let identity = row["identity"].as_str().context("identity")?;
    if target == Target::Docker {
        let label = format!("label=claude-bottle.identity={identity}");
        let agent = lab.docker(&["ps", "-q", "--filter", &label, "--filter", "label=claude-bottle.role=agent"])?;
        let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
        assert_eq!(lab.docker(&["inspect", "-f", format, agent.trim()])?.trim(), "1073741824 1500000000 300");
    }
    // A live bottle is not for `cleanup`.
    let run = home.run(&["cleanup", "--yes"])?;
    assert!(run.stderr.contains("nothing to clean up"), "{run:?}");
    let mut stdout = String::new();
    child.stdout.take().context("stdout")?.read_to_string(&mut stdout)?;
    assert_eq!(child.wait()?.code(), Some(0), "{stdout}");
    assert!(stdout.contains("ANTHROPIC_API_KEY=sk-ant-api03-placeholder"), "{stdout}");
    assert!(standin.seen().iter().any(|s| s.header("x-api-key") == Some("THE-REAL-API-KEY")));
    assert!(home.run(&["list", "active"])?.stderr.contains("no active bottles"));
    assert_nothing_left(lab, &home, identity)
}

fn on_terminal(home: &Home) -> Result<Pty> {
    Pty::start(&home.command(&["start", "dev"]), 100, 30)
}

#[test]
fn a_no_at_the_prompt_leaves_nothing() -> Result<()> {
    let (lab, standin, home) = home("")?;
    for answer in ["n\r", "\r", "Yes please\r"] {
        let mut terminal = on_terminal(&home)?;
        terminal.until("[y/N]")?;
        terminal.press(answer.as_bytes())?;
        terminal.until("aborted by user")?;
        assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
        assert_nothing_left(lab, &home, &identity_in(&terminal.text())?)?;
    }
    assert!(standin.seen().is_empty());
    Ok(())
}

#[test]
fn a_signal_at_the_prompt_ends_it_and_leaves_nothing() -> Result<()> {
    let (lab, _, home) = home("")?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let mut terminal = on_terminal(&home)?;
        terminal.until("[y/N]")?;
        terminal.signal(signal)?;
        assert_eq!(terminal.wait()?, Some(code), "{}", terminal.text());
        assert_nothing_left(lab, &home, &identity_in(&terminal.text())?)?;
    }
    Ok(())
}
