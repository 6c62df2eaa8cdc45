//! Attempts, run side by side by one shell, each with a deadline and with an allowed request after it.

use anyhow::{Context, Result, ensure};
use bottle_tests::bottle::Run;
use std::net::IpAddr;

/// How an attempt must end.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// With an error of the command itself, which is there.
    Fails,
    /// With this in what it says.
    Says(String),
    /// Nobody may hear of it; a datagram's sender never learns of that.
    Unheard,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) end: End,
    /// To this address no packet may go.
    pub(crate) target: Option<IpAddr>,
}

pub(crate) fn row(name: impl Into<String>, command: impl Into<String>, end: End) -> Row {
    Row { name: name.into(), command: command.into(), end, target: None }
}

/// Connects to an address, which must fail without a packet.
pub(crate) fn tcp(name: &str, ip: IpAddr, port: u16) -> Row {
    let command = format!("echo hello > /dev/tcp/{ip}/{port}");
    Row { target: Some(ip), ..row(format!("{name}: TCP {ip}:{port}"), command, End::Fails) }
}

/// Sends a datagram to an address, which must not leave.
pub(crate) fn udp(name: &str, ip: IpAddr, port: u16) -> Row {
    let command = format!("echo hello > /dev/udp/{ip}/{port}");
    Row { target: Some(ip), ..row(format!("{name}: UDP {ip}:{port}"), command, End::Unheard) }
}

/// The shell's script. `beside`: a command that must succeed after each attempt, `{}` the attempt's number. Each attempt
/// may take so many `seconds`; not all run at once: a busy machine is no proof of anything.
pub(crate) fn script(rows: &[Row], beside: &str, seconds: u32, at_once: usize) -> String {
    let mut script = String::from("set +m; dir=$(mktemp -d); cd $dir\n");
    for (n, row) in rows.iter().enumerate() {
        let beside = beside.replace("{}", &n.to_string());
        script += &format!(
            "(timeout {seconds} bash -c {} >{n}.out 2>&1; echo $? >{n}.rc; {beside} >{n}.beside 2>&1; echo $? >{n}.ok) &\n",
            quoted(&row.command)
        );
        if (n + 1) % at_once == 0 {
            script += "wait\n";
        }
    }
    script += "wait\n";
    for n in 0..rows.len() {
        script += &format!(
            "printf '%s\\001%s\\001%s\\002' \"$(cat {n}.rc)\" \"$(cat {n}.ok)\" \"$(cat {n}.out {n}.beside)\"\n"
        );
    }
    script + "cd /; rm -r $dir\n"
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Holds what the script said against the rows.
pub(crate) fn check(rows: &[Row], run: &Run) -> Result<()> {
    let said: Vec<&str> = run.stdout.split('\u{2}').filter(|said| !said.is_empty()).collect();
    ensure!(said.len() == rows.len(), "{} answers to {} attempts: {run:?}", said.len(), rows.len());
    let check = |(row, said): (&Row, &str)| {
        let mut parts = said.splitn(3, '\u{1}');
        let mut next = || parts.next().with_context(|| format!("{}: {said:?}", row.name));
        let (code, beside, output) = (next()?, next()?, next()?);
        ensure!(beside == "0", "{}: the allowed request beside it fails ({beside}): {output}", row.name);
        ensure!(!["126", "127"].contains(&code), "{}: it cannot be run: {output}", row.name);
        match &row.end {
            End::Fails => ensure!(code != "0", "{} succeeds: {output}", row.name),
            End::Says(text) => {
                ensure!(output.contains(text.as_str()), "{} says no {text:?}: {code} {output}", row.name)
            }
            End::Unheard => {}
        }
        Ok(())
    };
    let wrong: Vec<String> = rows.iter().zip(said).filter_map(|pair| Some(check(pair).err()?.to_string())).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
