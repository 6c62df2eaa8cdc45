//! Commands in the arguments of a tool: those that hide their name, and those that read what nobody should.

use regex::Regex;
use std::sync::OnceLock;

/// A command's name cut by backslashes, quotes or substitutions, or built from numbers: nobody honest writes these.
const HIDDEN: &[&str] = &[
    // r\m, c\u\r\l
    r"(?:^|[\s;&|(`])(?:[a-z]+\\)+[a-z]+(?:\s+-|\s+/|\s+~|\s+https?:)",
    // `rm`, $(echo rm) in the place of a command
    r"(?:^|[;&|]\s*)(?:`[^`]{1,60}`|\$\((?:echo|printf|which|command|base64)[^)]{1,120}\))\s+\S",
    // $'\162\155', $'\x72\x6d'
    r"\$'(?:\\(?:[0-7]{2,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})){2,}'",
    // r''m, "r"m, c"u"rl
    r#"(?:^|[\s;&|])[a-z]{1,8}(?:''|"")[a-z]{1,8}\s"#,
    r#"(?:^|[\s;&|])(?:[a-z]{0,4}(?:'[a-z]{1,4}'|"[a-z]{1,4}")){2,}[a-z]{0,4}\s"#,
    // ${IFS}
    r"\$\{?IFS\b",
    // base64 and hex into a shell
    r"(?:base64\s+(?:-d|-D|--decode)|xxd\s+-r|openssl\s+(?:enc|base64)\s+-d)[^|]{0,200}\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b",
    r"(?:curl|wget)\s[^|;]{1,300}\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b",
    r"\beval\s+[\x22'$`(]",
    // a=r;b=m;$a$b
    r"(?:^|[;&|\s])(?:[a-z_]+=[^\s;]{1,12};\s*){2,}\s*\$\{?[a-z_]+\}?\$\{?[a-z_]+",
    // ${x:0:1}, $0 tricks, ca?t globs of programs
    r"\$\{[A-Za-z_]+:\d+:\d+\}",
    r"/(?:[a-z]*\?[a-z?]*)+/(?:[a-z]*\?[a-z?]*)+",
    // rev <<< 'mr', printf '\162'
    r"\brev\b[^|]{0,60}\|\s*(?:ba|z)?sh|<<<\s*\S+\s*\|\s*(?:ba|z)?sh\b",
    r"\b(?:printf|echo\s+-e)\s+['\x22]?(?:\\(?:x[0-9a-f]{2}|[0-7]{3})){2,}",
];

/// Files that are secrets.
const SECRET_FILES: &str = r"(?:/etc/(?:shadow|passwd|sudoers|gshadow)\b|\.ssh/(?:id_[a-z0-9]+|authorized_keys)\b|\.aws/credentials\b|\.netrc\b|\.kube/config\b|\.docker/config\.json|\.gnupg/|\.git-credentials\b|/proc/(?:self|\d+)/environ\b|\.config/gcloud/|\.npmrc\b|\.pypirc\b)";

fn expressions() -> &'static (Vec<Regex>, Option<Regex>) {
    static ALL: OnceLock<(Vec<Regex>, Option<Regex>)> = OnceLock::new();
    ALL.get_or_init(|| {
        (HIDDEN.iter().filter_map(|text| Regex::new(text).ok()).collect(), Regex::new(SECRET_FILES).ok())
    })
}

/// Whether a command hides what it runs.
pub(crate) fn is_obfuscated(text: &str) -> bool {
    expressions().0.iter().any(|expression| expression.is_match(text))
}

/// Whether it names a file that is a secret, also in letters that only look like its name.
pub(crate) fn reads_secrets(text: &str) -> bool {
    let Some(files) = &expressions().1 else { return false };
    let mut folded = false;
    crate::decode::fold::decode(text.as_bytes(), usize::MAX, &mut |made| {
        folded |= files.is_match(&String::from_utf8_lossy(&made.bytes));
    });
    folded || files.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_can_be_compiled() {
        assert_eq!(expressions().0.len(), HIDDEN.len());
        assert!(expressions().1.is_some());
    }

    #[test]
    fn hidden_commands_and_plain_ones() {
        for hidden in [r"r\m -rf /x", "`rm` -rf /x", r"$'\162\155' -rf /x", "r''m -rf /x", "cat${IFS}/etc/hosts"] {
            assert!(is_obfuscated(hidden), "{hidden}");
        }
        for plain in
            ["ls -la /home", "git commit -m \"it's\"", "echo $HOME", "grep -r 'a\\.b' src", "cargo test -- --nocapture"]
        {
            assert!(!is_obfuscated(plain), "{plain}");
        }
    }
}
