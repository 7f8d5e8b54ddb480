//! What libvirt says by words alone, in whatever language. Its daemon speaks the language of its host (systemd gives it `LANG`), and where it has one code for
//! several things only the message tells them apart.
//!
//! A daemon that speaks another language than English has its own catalogues on the host, or it would not: they are asked what the English words are there, in any
//! language, the first time that a message is not English.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Where the packages of libvirt's translations put them: `<language>/LC_MESSAGES/libvirt.mo`.
const FOLDER: &str = "/usr/share/locale";
/// libvirt's have 1 MB.
const CATALOGUE_BYTES_MAX: u64 = 16 << 20;
/// A translation that has no words of this length says nothing for certain.
const PIECE_BYTES_MIN: usize = 4;
const MAGIC: u32 = 0x9504_12de;

/// Something that libvirt says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phrase {
    /// How a message of its code begins in English.
    pub head: &'static str,
    /// English words that only this one has.
    pub words: &'static str,
}

/// The agent's port was closed in the guest. If a backup's job ran then, libvirt says so for good (docs/capture.md).
pub(crate) const AGENT_LOST: Phrase = Phrase { head: "Guest agent is not responding", words: "Guest agent disappeared" };
/// The same of a port that libvirt knows to be closed: it looks before it greets the agent, and says so of nothing that it has sent (qemuDomainAgentAvailable).
pub(crate) const AGENT_NOT_CONNECTED: Phrase = Phrase { head: "Guest agent is not responding", words: "agent is not connected" };
/// An agent's own error, for which libvirt 9.0 has no code.
pub(crate) const AGENT_ERROR: Phrase = Phrase { head: "internal error", words: "unable to execute QEMU agent command" };
/// The domain is off.
pub(crate) const NOT_RUNNING: Phrase = Phrase { head: "Requested operation is not valid", words: "not running" };
/// A checkpoint is to be deleted whose bitmap is gone (qemuCheckpointDiscardDiskBitmaps).
pub(crate) const NO_BITMAP: Phrase = Phrase { head: "internal error", words: "not found in backing chain of" };
const ALL: [Phrase; 5] = [AGENT_LOST, AGENT_NOT_CONNECTED, AGENT_ERROR, NOT_RUNNING, NO_BITMAP];

/// Whether a message says this.
pub(crate) fn says(message: &str, phrase: Phrase) -> bool {
    static KNOWN: OnceLock<Vec<(String, String)>> = OnceLock::new();
    message.contains(phrase.words) || (!message.starts_with(phrase.head) && is_among(message, phrase, KNOWN.get_or_init(|| known(Path::new(FOLDER)))))
}

fn is_among(message: &str, phrase: Phrase, known: &[(String, String)]) -> bool {
    known.iter().any(|(english, text)| english.contains(phrase.words) && is_made_of(message, text))
}

/// What any language has for the phrases: English, and that.
fn known(folder: &Path) -> Vec<(String, String)> {
    let languages = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = languages.map(|language| language.path().join("LC_MESSAGES/libvirt.mo"));
    let small = files.filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() <= CATALOGUE_BYTES_MAX));
    let mut out: Vec<_> = small.filter_map(|path| fs::read(path).ok()).flat_map(|bytes| entries(&bytes)).collect();
    out.sort();
    out.dedup();
    out
}

/// The phrases in a catalogue of gettext's: after magic and version the number of texts, and where the tables of English ones and of translations begin; each has length and
/// place of its texts.
fn entries(bytes: &[u8]) -> Vec<(String, String)> {
    let word = |at: usize| bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes);
    let number = |at: usize| word(at).and_then(|n| usize::try_from(n).ok());
    let text = |table: usize, n: usize| {
        let (length, at) = (number(table.checked_add(n * 8)?)?, number(table.checked_add(n * 8 + 4)?)?);
        std::str::from_utf8(bytes.get(at..at.checked_add(length)?)?).ok()
    };
    let (Some(MAGIC), Some(count), Some(english), Some(translated)) = (word(0), number(8), number(12), number(16)) else { return Vec::new() };
    let wanted = |n: usize| {
        let id = text(english, n).filter(|id| ALL.iter().any(|phrase| id.contains(phrase.words)))?;
        Some((id.to_owned(), text(translated, n)?.to_owned()))
    };
    (0..count.min(bytes.len() / 8)).filter_map(wanted).collect()
}

/// Whether a message has all words of a text between its placeholders, in their order.
fn is_made_of(message: &str, text: &str) -> bool {
    let pieces = pieces(text);
    let mut rest = Some(message);
    for piece in &pieces {
        rest = rest.and_then(|rest| rest.split_once(piece.as_str())).map(|(_, rest)| rest);
    }
    rest.is_some() && pieces.iter().any(|piece| piece.len() >= PIECE_BYTES_MIN)
}

/// The words between `%s`, `%1$s`, `%llu` and their kin.
fn pieces(text: &str) -> Vec<String> {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| {
        let conversion = part.trim_start_matches(|c: char| c.is_ascii_digit() || "$.-+#lhzjt".contains(c));
        conversion.get(1..).unwrap_or_default()
    });
    std::iter::once(first).chain(rest).map(|piece| piece.trim().to_owned()).filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A catalogue as msgfmt writes one.
    fn catalogue(texts: &[(&str, &str)]) -> Vec<u8> {
        let (tables, mut out, mut strings) = (28 + texts.len() * 16, Vec::new(), Vec::new());
        let word = |n: usize| u32::try_from(n).expect("small").to_le_bytes();
        out.extend(MAGIC.to_le_bytes());
        for n in [0, texts.len(), 28, 28 + texts.len() * 8, 0, 0] {
            out.extend(word(n));
        }
        for text in texts.iter().map(|t| t.0).chain(texts.iter().map(|t| t.1)) {
            out.extend(word(text.len()));
            out.extend(word(tables + strings.len()));
            strings.extend(text.bytes().chain([0]));
        }
        out.extend(strings);
        out
    }

    /// From libvirt 9.0.
    const GERMAN: [(&str, &str); 3] = [
        ("domain is not running", "Domain läuft nicht"),
        ("unable to execute QEMU agent command '%s': %s", "Agent QEMU-befehl '%s' kann nicht ausgeführt werden: %s"),
        ("unrelated", "nicht verwandt"),
    ];
    const JAPANESE: [(&str, &str); 2] = [
        ("Guest agent disappeared while executing command", "コマンド実行中にゲストエージェントが消えました"),
        ("QEMU guest agent is not connected", "QEMU ゲストエージェントが接続されていません"),
    ];

    #[test]
    fn what_is_said_is_told_apart_in_any_language() {
        let folder = tempfile::tempdir().expect("a folder");
        for (language, bytes) in [("de", catalogue(&GERMAN)), ("ja", catalogue(&JAPANESE)), ("xx", b"no catalogue".to_vec())] {
            let path = folder.path().join(language).join("LC_MESSAGES");
            fs::create_dir_all(&path).expect("made");
            fs::write(path.join("libvirt.mo"), bytes).expect("written");
        }
        let known = known(folder.path());
        assert_eq!(known.len(), 4, "{known:?}");
        let said = |message: &str| ALL.iter().filter(|phrase| is_among(message, **phrase, &known)).map(|phrase| phrase.words).collect::<Vec<_>>();
        assert_eq!(said("ゲストエージェントが応答しません: コマンド実行中にゲストエージェントが消えました"), [AGENT_LOST.words]);
        assert_eq!(said("ゲストエージェントが応答しません: QEMU ゲストエージェントが接続されていません"), [AGENT_NOT_CONNECTED.words]);
        assert_eq!(said("Interner Fehler: Agent QEMU-befehl 'guest-fsfreeze-thaw' kann nicht ausgeführt werden: nein"), [AGENT_ERROR.words]);
        assert_eq!(said("Angeforderte Operation ist nicht gültig: Domain läuft nicht"), [NOT_RUNNING.words]);
        assert_eq!(said("Gast-Agent antwortet nicht: etwas anderes"), Vec::<&str>::new());
    }

    #[test]
    fn english_needs_no_catalogue() {
        assert!(says("Guest agent is not responding: Guest agent disappeared while executing command", AGENT_LOST));
        assert!(!says("Guest agent is not responding: Guest agent not available for now", AGENT_LOST));
        assert!(says("Requested operation is not valid: domain is not running", NOT_RUNNING));
    }

    #[test]
    fn a_catalogue_that_is_cut_off_has_nothing_that_is_not_there() {
        let whole = catalogue(&GERMAN);
        assert_eq!(entries(&whole).len(), 2);
        for length in 0..whole.len() {
            assert!(entries(&whole[..length]).len() <= 2);
        }
        let mut wild = whole.clone();
        wild[8..20].fill(0xff);
        assert_eq!(entries(&wild), []);
    }

    #[test]
    fn placeholders_are_no_words() {
        assert_eq!(pieces("'%1$s' is %llu %s"), ["'", "' is"]);
        assert!(is_made_of("'x' is 7 y", "'%1$s' is %llu %s") && !is_made_of("is 'x'", "'%1$s' is %llu %s"));
        assert!(!is_made_of("anything", "%s") && !is_made_of("a b", "b a"));
    }
}
