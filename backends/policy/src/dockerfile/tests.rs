//! What a Dockerfile means here, and every kind that is refused.

use super::*;
use crate::{Proposal, proposal::MAX_DOCKERFILE};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Recipe, String> {
    Recipe::parse(text, "/usr/bin")
}

#[test]
fn whatever_is_not_understood_is_refused_with_its_line() {
    let many = "RUN a\n".repeat(MAX_INSTRUCTIONS + 1);
    let doubling = format!("ENV A=x\n{}RUN a", "ENV A=$A$A$A$A$A$A$A$A\n".repeat(20));
    let copies = format!("ENV A={}\nENV B=$A C=$A\nENV D=$A\nRUN a", "x".repeat(MAX_VALUE));
    for (text, line, word) in [
        // Another image, and what a builder would fetch for it.
        ("FROM node:22\nRUN a", 1, "FROM bottle"),
        ("FROM scratch\nRUN a", 1, "FROM bottle"),
        ("FROM bottle AS x\nRUN a", 1, "FROM bottle"),
        ("FROM --platform=linux/arm64 bottle\nRUN a", 1, "FROM bottle"),
        ("FROM\nRUN a", 1, "FROM bottle"),
        ("RUN a\nFROM bottle", 2, "first"),
        ("FROM bottle\nFROM bottle\nRUN a", 2, "first"),
        ("# syntax=docker/dockerfile:1\nRUN a", 1, "builder"),
        ("# a comment\n#  syntax = evil.example/frontend\nRUN a", 2, "builder"),
        ("# escape=`\nRUN a", 1, "builder"),
        ("#check=skip=all\nRUN a", 1, "builder"),
        // What comes from elsewhere, and what outlives the steps.
        ("RUN a\nCOPY . /", 2, "COPY is not to be had"),
        ("RUN a\nCOPY --from=evil.example/x / /", 2, "COPY"),
        ("copy . /\nRUN a", 1, "COPY"),
        ("RUN a\nADD https://evil.example/x /x", 2, "ADD"),
        ("RUN a\n\n# why\n\tADD git@evil.example:x /x", 4, "ADD"),
        ("ARG X=1\nRUN a", 1, "ARG"),
        ("RUN a\nVOLUME /x", 2, "VOLUME"),
        ("RUN a\nONBUILD RUN b", 2, "ONBUILD"),
        ("RUN a\nENTRYPOINT [\"x\"]", 2, "ENTRYPOINT"),
        ("RUN a\nCMD x", 2, "CMD"),
        ("RUN a\nEXPOSE 80", 2, "EXPOSE"),
        ("RUN a\nHEALTHCHECK NONE", 2, "HEALTHCHECK"),
        ("RUN a\nSTOPSIGNAL 9", 2, "STOPSIGNAL"),
        ("RUN a\nLABEL claude-bottle.owner=me", 2, "LABEL"),
        ("RUN a\nMAINTAINER me", 2, "MAINTAINER"),
        ("RUNa", 1, "no instruction"),
        ("RUN a\n-RUN b", 2, "no instruction"),
        ("RUN a\n\u{416}", 2, "no instruction"),
        // Options of RUN.
        ("RUN --mount=type=bind,target=/x,source=/ a", 1, "--mount"),
        ("RUN --mount=type=secret,id=x a", 1, "--mount"),
        ("RUN --network=host a", 1, "--network"),
        ("RUN --security=insecure a", 1, "--security"),
        ("RUN \\\n  --network=host a", 1, "--network"),
        ("RUN --\ta", 1, "no options"),
        // Text that goes on.
        ("RUN <<EOF\na\nEOF", 1, "<<EOF"),
        ("RUN cat <<-'X' > /x\na\nX", 1, "<<-'X'"),
        ("RUN python3 3<<EOF\na\nEOF", 1, "3<<EOF"),
        ("RUN a \\\n\nCOPY . /", 2, "blank"),
        ("RUN a \\", 1, "nothing follows"),
        ("RUN b\nRUN a \\\n# why", 2, "nothing follows"),
        ("RUN", 1, "RUN what"),
        ("RUN a\nRUN\t", 2, "RUN what"),
        ("RUN [\"a\", 'b']", 1, "not closed"),
        ("RUN [\"a\"", 1, "not closed"),
        ("RUN [\"\"]", 1, "not closed"),
        ("RUN [\"a\\u0000b\"]", 1, "nobody would see"),
        ("RUN [\"sh\", \"-c\", \"a\\u000ab\"]", 1, "nobody would see"),
        ("SHELL [\"/bin/sh\", \"\\u202e-c\"]\nRUN a", 1, "nobody would see"),
        ("RUN a\u{3164}b", 1, "nobody would see"),
        (&format!("RUN a{}b", " ".repeat(41)), 1, "blanks"),
        (&format!("RUN a\n{}RUN b", " \n".repeat(4)), 5, "blank lines"),
        // What nobody sees.
        ("RUN a\u{202e}b", 1, "nobody would see"),
        ("RUN b\nRUN a\u{200b}", 2, "nobody would see"),
        ("\u{feff}RUN a", 1, "nobody would see"),
        ("RUN a\rCOPY . /", 1, "nobody would see"),
        ("RUN a\0", 1, "nobody would see"),
        ("RUN \u{1b}[2Ja", 1, "nobody would see"),
        ("# \u{202e}\nRUN a", 1, "nobody would see"),
        // Who, where, by what.
        ("USER nobody\nRUN a", 1, "USER"),
        ("USER root:docker\nRUN a", 1, "USER"),
        ("USER $X\nRUN a", 1, "USER"),
        ("USER\nRUN a", 1, "USER"),
        ("WORKDIR\nRUN a", 1, "WORKDIR"),
        ("WORKDIR $HOME\nRUN a", 1, "WORKDIR"),
        ("WORKDIR /a b\nRUN a", 1, "WORKDIR"),
        ("SHELL /bin/bash\nRUN a", 1, "SHELL"),
        ("SHELL []\nRUN a", 1, "SHELL"),
        ("SHELL [1]\nRUN a", 1, "SHELL"),
        // Variables.
        ("ENV", 1, "NAME=VALUE"),
        ("ENV A", 1, "NAME=VALUE"),
        ("ENV A b", 1, "NAME=VALUE"),
        ("ENV A=b C", 1, "NAME=VALUE"),
        ("ENV =b", 1, "NAME=VALUE"),
        ("ENV 1A=b", 1, "NAME=VALUE"),
        ("ENV A-B=b", 1, "NAME=VALUE"),
        ("ENV A=\"b", 1, "not closed"),
        ("ENV A='b", 1, "not closed"),
        ("ENV A=b\\ ", 1, "nothing follows"),
        ("ENV A=$HTTPS_PROXY", 1, "no ENV before"),
        ("ENV A=1 B=$A", 1, "no ENV before"),
        ("ENV A=${PATH:-x}", 1, "nothing else"),
        ("ENV A=$(id)", 1, "nothing else"),
        ("ENV A=$", 1, "nothing else"),
        (&doubling, 6, "too long"),
        (&copies, 3, "too long together"),
    ] {
        let refused = parse(text).expect_err(text);
        assert!(refused.starts_with(&format!("line {line}: ")) && refused.contains(word), "{text:?}: {refused}");
    }
    for (text, word) in [
        (many.as_str(), "instructions"),
        ("FROM bottle", "changes nothing"),
        ("# nothing\n", "changes nothing"),
        ("USER agent\nSHELL [\"a\"]", "changes nothing"),
        ("", "changes nothing"),
    ] {
        assert!(parse(text).expect_err(text).contains(word), "{text:?}");
    }
}

#[test]
fn the_agent_is_told_when_it_proposes() {
    let proposal = |dockerfile: &str| Proposal::CapabilityBlock {
        dockerfile: dockerfile.into(),
        justification: "it is needed".into(),
    };
    assert_eq!(proposal("RUN apt-get install -y jq").check(), Ok(()));
    let refused = proposal("RUN a\nCOPY . /").check().unwrap_err();
    assert!(refused.contains("line 2: COPY") && refused.contains("Dockerfile"), "{refused}");
}

#[test]
fn a_dockerfile_is_a_list_of_programs() {
    let recipe = parse(
        "# why\n\
         from bottle\n\
         RUN apt-get update \\\n\
         # a comment in between\r\n    && apt-get install -y jq  \n\
         ENV A=1 B=\"two words\" C='$A \\' D=\\$A\\ b\n\
         ENV PATH=/opt/bin:$PATH E=\"${B}\\\"\\n\"\n\
         WORKDIR /opt\n\
         SHELL [\"/bin/bash\", \"-euc\"]\n\
         USER agent\n\
         WORKDIR tool\n\
         RUN [ -e x ] || echo $((1<<2)) <<<$A\n\
         RUN [\"true\", \"a b\"]\n",
    )
    .unwrap();
    let env: Vec<(&str, &str)> = recipe.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "$A \\"),
        ("D", "$A b"),
        ("E", "two words\"\\n"),
        ("PATH", "/opt/bin:/usr/bin"),
    ];
    assert_eq!(env, expected);
    let steps: Vec<(usize, Vec<&str>, User, &str, usize)> = recipe
        .steps
        .iter()
        .map(|step| {
            (step.line, step.argv.iter().map(String::as_str).collect(), step.user, step.cwd.as_str(), step.env.len())
        })
        .collect();
    let expected = [
        (3, vec!["/bin/sh", "-c", "apt-get update     && apt-get install -y jq"], User::Root, "/", 0),
        (8, vec!["mkdir", "-p", "--", "/opt"], User::Root, "/", 6),
        (11, vec!["mkdir", "-p", "--", "/opt/tool"], User::Root, "/opt", 6),
        (12, vec!["/bin/bash", "-euc", "[ -e x ] || echo $((1<<2)) <<<$A"], User::Agent, "/opt/tool", 6),
        (13, vec!["true", "a b"], User::Agent, "/opt/tool", 6),
    ];
    assert_eq!(steps, expected);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_is_run_stood_in_it(text in any::<String>()) {
        let _ = parse(&text);
    }

    /// Of words that mean something, in any order.
    #[test]
    fn what_is_taken_is_bounded(words in prop::collection::vec(prop::sample::select(vec![
        "FROM", "RUN", "ENV", "USER", "WORKDIR", "SHELL", "COPY", "bottle", "agent", "root", "A=1", "B=$A", "${A}",
        "/x", "\\", "\n", "\n", "\n", "#", " ", "\"", "'", "[\"a\"]", "<<EOF", "--mount=x", "\r\n", "$PATH", "=",
    ]), 0..60)) {
        let text = words.join(" ");
        prop_assume!(text.len() <= MAX_DOCKERFILE);
        if let Ok(recipe) = parse(&text) {
            prop_assert!(recipe.steps.len() <= MAX_INSTRUCTIONS);
            prop_assert!(recipe.env.values().all(|value| value.len() <= MAX_VALUE));
            for step in &recipe.steps {
                prop_assert!(!step.argv.is_empty() && step.cwd.starts_with('/'));
                prop_assert!(step.line >= 1 && step.line <= text.split('\n').count());
                let shown = step.argv.iter().any(|word| word.contains("--mount") && word.starts_with("--"));
                prop_assert!(!shown && !step.argv.iter().any(|word| word.contains('\0')));
            }
        }
    }
}
