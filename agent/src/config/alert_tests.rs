//! Targets of alerts as people write them, and mistakes with their places.

use super::*;
use crate::config::{Config, check::Programs, text::parse};
use std::path::Path;

fn read(targets: &str) -> Result<Config, String> {
    let text = format!("stores:\n  main: {{ url: /srv }}\npolicies:\n  nightly: {{ select: {{ names: [a] }}, stores: [main] }}\nalerts:\n{targets}");
    parse(Path::new("/c"), &text, Programs::There).map_err(|e| e.lines().join("\n"))
}

#[test]
fn targets_are_read() {
    let config = read(
        "  ops:\n    mail: { to: [ops@example.net, root], from: cairn@vm1.example.net, server: \"starttls://mail.example.net\", user: u, password_file: /p, ca_file: /ca }
    match: { kinds: [rpo, frozen], domains: [\"prod-*\"], policies: [nightly], stores: [main], severity: critical }\n    repeat: 24h\n    resolved: true
  chat: { webhook: { url: \"https://[::1]:8443/hooks?x=1\", headers_file: /h }, pause: 5m }
  pager: { command: [/bin/sh, -c, \"exit 0\"] }\n",
    )
    .expect("reads");
    let (ops, chat, pager) = (&config.alerts["ops"], &config.alerts["chat"], &config.alerts["pager"]);
    let Way::Mail(mail) = &ops.way else { panic!("{ops:?}") };
    assert_eq!((mail.host.as_str(), mail.port, mail.security, mail.to.len()), ("mail.example.net", 587, Security::StartTls, 2));
    assert_eq!(mail.login, Some(("u".to_owned(), "/p".into())));
    assert_eq!((ops.repeat, ops.resolved, ops.pause, chat.pause), (Some(Duration::from_secs(86_400)), true, PAUSE_DEFAULT, Duration::from_secs(300)));
    let Way::Webhook(hook) = &chat.way else { panic!("{chat:?}") };
    assert_eq!((hook.is_tls, hook.host.as_str(), hook.port, hook.path.as_str()), (true, "::1", 8443, "/hooks?x=1"));
    assert_eq!(pager.way, Way::Command(["/bin/sh", "-c", "exit 0"].map(str::to_owned).into()));
    let cause = |kind, domain: Option<&str>, policy: &str| {
        let cause = Cause::new(kind, Severity::Critical, "s", "t").of_policy(policy).of_store("main");
        domain.map_or(cause.clone(), |name| cause.of_domain(name, "u"))
    };
    assert!(ops.matches(&cause(Kind::Rpo, Some("prod-web"), "nightly")) && pager.matches(&cause(Kind::Daemon, None, "x")));
    for other in [
        cause(Kind::Daemon, Some("prod-web"), "nightly"),
        cause(Kind::Rpo, Some("web"), "nightly"),
        cause(Kind::Rpo, None, "nightly"),
        cause(Kind::Rpo, Some("prod-web"), "gold"),
        Cause { severity: Severity::Warning, ..cause(Kind::Rpo, Some("prod-web"), "nightly") },
        Cause { store: None, ..cause(Kind::Rpo, Some("prod-web"), "nightly") },
    ] {
        assert!(!ops.matches(&other), "{other:?}");
    }
}

#[test]
fn mistakes_are_told_with_their_places() {
    let mail = |more: &str| format!("  x: {{ mail: {{ to: [a@b], from: c@d, {more} }} }}\n");
    let mut odd = Vec::new();
    for (text, at, word) in [
        ("  x: { repeat: 24h }\n".to_owned(), "6:6", "give one of mail, command and webhook"),
        ("  x: { command: [/bin/sh], webhook: { url: \"http://h\" } }\n".into(), "6:6", "has 2 ways"),
        ("  x: { command: [] }\n".into(), "6:17", "is empty"),
        ("  x: { command: [page] }\n".into(), "6:18", "no absolute path"),
        ("  x: { command: [/nowhere/x] }\n".into(), "6:18", "/nowhere/x"),
        ("  x: { command: /bin/sh }\n".into(), "6:17", "command: takes a list"),
        ("  x: { webhook: { url: \"ftp://h\" } }\n".into(), "6:24", "write https://"),
        ("  x: { webhook: { url: \"https://u:p@h/x\" } }\n".into(), "6:24", "no name and password"),
        ("  x: { webhook: { url: \"https://h/a b\" } }\n".into(), "6:24", "cannot be used"),
        ("  x: { webhook: { url: \"https://h:0/\" } }\n".into(), "6:24", "cannot be used"),
        ("  x: { webhook: { url: \"https://h\", secret: abc } }\n".into(), "6:37", "there is no key 'secret'"),
        (mail("server: mail.example.net"), "6:46", "SCHEME://HOST"),
        (mail("server: \"http://h\""), "6:46", "smtps://HOST"),
        (mail("server: \"smtp://h\", user: u, password_file: /p"), "6:46", "for all to read"),
        (mail("server: \"smtps://h\", user: u"), "6:65", "needs a password_file"),
        (mail("server: \"smtps://h\", password_file: /p"), "6:74", "needs a user"),
        (mail("server: \"smtps://h\", password: geheim"), "6:59", "there is no key 'password'"),
        (mail("server: \"smtps://h\", user: u, password_file: p"), "6:83", "absolute"),
        ("  x: { mail: { to: [\"a b@c\"], from: d@e, server: \"smtp://h\" } }\n".into(), "6:21", "no address of mail"),
        ("  x: { mail: { to: [a@b], from: \"d@e>\\r\\nX: y\", server: \"smtp://h\" } }\n".into(), "6:33", "no address of mail"),
        ("  x: { mail: { to: [], from: d@e, server: \"smtp://h\" } }\n".into(), "6:20", "1 to 32 recipients"),
        ("  x: { command: [/bin/sh], match: { kinds: [rop] } }\n".into(), "6:45", "did you mean 'rpo'"),
        ("  x: { command: [/bin/sh], match: { policies: [nigthly] } }\n".into(), "6:48", "did you mean 'nightly'"),
        ("  x: { command: [/bin/sh], match: { stores: [far] } }\n".into(), "6:46", "nobody would ever be told"),
        ("  x: { command: [/bin/sh], match: { severity: bad } }\n".into(), "6:47", "there are: warning, critical"),
        ("  x: { command: [/bin/sh], repeat: 1s }\n".into(), "6:36", "within 60 s"),
        ("  \"a b\": { command: [/bin/sh] }\n".into(), "6:10", "cannot be the name"),
    ] {
        match read(&text) {
            Ok(_) => odd.push(format!("{text} is taken")),
            Err(said) if said.starts_with(&format!("/c:{at}: ")) && said.contains(word) => {}
            Err(said) => odd.push(format!("{text}: wanted {at} {word}, got {said}")),
        }
    }
    assert!(odd.is_empty(), "{}", odd.join("\n"));
}

#[test]
fn little_space_is_a_share_or_a_size() {
    let low = |text: &str| parse(Path::new("/c"), &format!("stores:\n  main: {{ url: /srv, low_space: {text} }}\n"), Programs::There);
    use crate::config::LowSpace::{Bytes, Percent};
    assert_eq!(low("10%").expect("reads").stores["main"].low_space, Some(Percent(10)));
    assert_eq!(low("50GiB").expect("reads").stores["main"].low_space, Some(Bytes(50 << 30)));
    for text in ["0%", "100%", "some", "0", "-1%"] {
        let said = low(text).expect_err(text).to_string();
        assert!(said.contains("/c:2:33: ") && said.contains("as 50GiB"), "{said}");
    }
}
