//! Checksums, and a signature of them by `ssh-keygen -Y`: it is on every host that an admin reaches, and keys of tokens work with it. The key is the releaser's
//! and never the project's.

use super::io;
use crate::error::{Error, Result};
use crate::workspace::run_visibly;
use cairn_lab::process::run_ok;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
const SUMS: &str = "SHA256SUMS";
/// What a signature is for; docs/install.md verifies with the same word.
pub const NAMESPACE: &str = "cairn-release";

/// Writes `SHA256SUMS` of these files, which lie in `folder`.
pub fn sums(folder: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let text = run_ok(Command::new("sha256sum").args(["--"]).args(&names).current_dir(folder), LIMIT)?;
    let path = folder.join(SUMS);
    fs::write(&path, text).map_err(|e| io(&path, &e))?;
    Ok(path)
}

/// Signs a file beside itself; asks for the key's passphrase where it has one.
pub fn sign(file: &Path, key: &Path) -> Result<PathBuf> {
    let signature = PathBuf::from(format!("{}.sig", file.display()));
    if signature.exists() {
        fs::remove_file(&signature).map_err(|e| io(&signature, &e))?;
    }
    run_visibly(Command::new("ssh-keygen").args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(file))?;
    if signature.is_file() { Ok(signature) } else { Err(Error::failed(format!("ssh-keygen made no {}", signature.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_lab::process::run;

    /// As docs/install.md has it.
    fn is_good(folder: &Path) -> bool {
        let ask = format!("ssh-keygen -Y verify -f allowed_signers -I release -n {NAMESPACE} -s {SUMS}.sig < {SUMS} && sha256sum --check --quiet {SUMS}");
        run(Command::new("sh").args(["-ec", &ask]).current_dir(folder), LIMIT).expect("runs").status.success()
    }

    #[test]
    fn what_was_signed_is_known_and_what_was_changed_is_refused() {
        let folder = std::env::temp_dir().join(format!("cairn-sign-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let (key, package) = (folder.join("key"), folder.join("a.deb"));
        run_ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key), LIMIT).expect("a key");
        let public = fs::read_to_string(folder.join("key.pub")).expect("its public half");
        fs::write(folder.join("allowed_signers"), format!("release {public}")).expect("written");
        fs::write(&package, "one").expect("written");
        for _ in 0..2 {
            let sums = sums(&folder, std::slice::from_ref(&package)).expect("sums");
            sign(&sums, &key).expect("signed");
            assert!(is_good(&folder));
        }
        fs::write(&package, "two").expect("written");
        assert!(!is_good(&folder), "the package was changed");
        sums(&folder, std::slice::from_ref(&package)).expect("sums");
        assert!(!is_good(&folder), "the sums were changed, too");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
