//! From options to an open store: where it is, which key opens it, where this host keeps its caches.

use crate::{
    cli::Common,
    config,
    failure::{Failure, NO_STORE, Outcome, WRONG_KEY},
};
use cairn_store::{Credential, OpenOptions, Store, format::StoreId};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Keys of root's stores.
const SYSTEM_KEYS: &str = "/etc/cairn/keys";
/// Root's state.
const SYSTEM_STATE: &str = "/var/lib/cairn";

/// The directory of a store's name on the command line.
pub fn store_path(url: &str) -> Outcome<PathBuf> {
    if let Some((scheme, _)) = url.split_once("://") {
        return Err(Failure::new(
            NO_STORE,
            format!("'{url}': stores of kind {scheme} are not supported by this version; use a directory (an NFS mount is one)"),
        ));
    }
    if url.is_empty() {
        return Err(Failure::usage("the store's path is empty"));
    }
    std::path::absolute(url).map_err(|e| Failure::usage(format!("'{url}': {e}")))
}

/// A store that is named by the configuration, in the place of its name. A path that exists is never taken for a name.
pub fn with_named_store(mut common: Common) -> Outcome<Common> {
    let Some(name) = common.store.as_deref().filter(|s| !s.is_empty() && !s.contains('/') && !Path::new(s).exists()) else { return Ok(common) };
    let Some(path) = config::find(common.config.as_deref()) else { return Ok(common) };
    let config = config::load(&path)
        .map_err(|e| Failure::usage(format!("'{name}' is no folder here, and the configuration cannot be asked for a store of that name: {e}")))?;
    if let Some(entry) = config.stores.get(name) {
        common.store = Some(entry.url.clone());
        // A key that was named by hand counts.
        if common.key_file.is_none() && common.passphrase_file.is_none() {
            common.key_file.clone_from(&entry.key_file);
            common.passphrase_file.clone_from(&entry.passphrase_file);
        }
    }
    Ok(common)
}

/// Opens the store that the options name.
pub fn open_store(common: &Common) -> Outcome<Store> {
    let url = common.store.as_deref().ok_or_else(|| Failure::usage("no store was named; use --store PATH or set CAIRN_STORE"))?;
    let path = store_path(url)?;
    let (id, encrypted) = Store::identify(&path).map_err(|e| with_remedy(common, url, e.into()))?;
    let credential = credential_of(common, &id, encrypted)?;
    Ok(Store::open(&path, OpenOptions { credential, state_dir: state_dir(common)?, host: host_name() })?)
}

/// What somebody does who finds no store: most have forgotten a mount, or mean a store by its name.
fn with_remedy(common: &Common, url: &str, mut failure: Failure) -> Failure {
    if failure.code != NO_STORE {
        return failure;
    }
    let named = config::find(common.config.as_deref()).and_then(|path| config::load(&path).ok()).map(|config| config.stores.into_keys().collect::<Vec<_>>());
    match named.filter(|names| !url.contains('/') && !names.is_empty()) {
        Some(names) => failure.message.push_str(&format!(" (the configuration has no store of that name; it has {})", names.join(", "))),
        None => failure.message.push_str(" (is it mounted? 'cairn init' makes a new store, and never in a folder with files)"),
    }
    failure
}

/// The key that options or defaults name, if there is one.
pub fn credential_of(common: &Common, id: &StoreId, encrypted: bool) -> Outcome<Option<Credential>> {
    if let Some(path) = &common.key_file {
        return Ok(Some(Credential::read_key_file(path)?));
    }
    if let Some(path) = &common.passphrase_file {
        return Ok(Some(Credential::Passphrase(read_passphrase(path)?)));
    }
    let default = default_key_file(id)?;
    if encrypted && default.exists() {
        return Ok(Some(Credential::read_key_file(&default)?));
    }
    Ok(None)
}

/// First line of a passphrase file, which must belong to its reader alone, as a key file must. Of a pipe or a terminal
/// modes say nothing.
pub fn read_passphrase(path: &Path) -> Outcome<Zeroizing<String>> {
    let fail = |why: String| Failure::new(WRONG_KEY, format!("passphrase file {}: {why}", path.display()));
    check_secret(path).map_err(|why| Failure::new(WRONG_KEY, format!("passphrase file {why}")))?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|e| fail(e.to_string()))?);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(fail("its first line is empty".into())),
    }
}

/// Whether a file's reader is the only one who may read it; why not. Of a pipe or a terminal modes say nothing.
pub fn check_secret(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
        return Err(format!("{}: others may read it; run chmod 600 on it", path.display()));
    }
    Ok(())
}

/// Where a store's key file lies unless told otherwise.
pub fn default_key_file(id: &StoreId) -> Outcome<PathBuf> {
    let dir = if is_root() { PathBuf::from(SYSTEM_KEYS) } else { user_dir("XDG_CONFIG_HOME", ".config")?.join("cairn/keys") };
    Ok(dir.join(format!("{id}.key")))
}

/// Caches and pins of this host.
pub fn state_dir(common: &Common) -> Outcome<PathBuf> {
    match &common.state_dir {
        Some(dir) => Ok(dir.clone()),
        None if is_root() => Ok(PathBuf::from(SYSTEM_STATE)),
        None => Ok(user_dir("XDG_STATE_HOME", ".local/state")?.join("cairn")),
    }
}

fn user_dir(variable: &str, below_home: &str) -> Outcome<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var(variable)
        .or_else(|| Some(var("HOME")?.join(below_home)))
        .ok_or_else(|| Failure::usage(format!("neither {variable} nor HOME is set; use --state-dir and --key-file")))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This host's name, for records.
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_else(|| "unknown".into())
}
