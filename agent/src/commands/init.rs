//! `cairn init`

use super::Done;
use crate::{
    cli::{self, Common, ProfileName},
    context::{default_key_file, read_passphrase, store_path},
    failure::{Failure, Outcome, WRONG_KEY},
    output,
};
use cairn_store::{InitOptions, InitReport, KeyFileChooser, Profile};
use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf};

/// Makes a store; prints the recovery key once.
pub fn run(common: &Common, o: &cli::Init) -> Outcome<Done> {
    let path = store_path(&o.url)?;
    let profile = match o.profile {
        ProfileName::Small => Profile::Small,
        ProfileName::Default => Profile::Default,
        ProfileName::Archive => Profile::Archive,
    };
    let passphrase = common.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    if o.no_encryption && passphrase.is_some() {
        return Err(Failure::usage("--no-encryption and a passphrase exclude each other"));
    }
    let key_file: Option<KeyFileChooser> = match (&common.key_file, o.no_encryption) {
        (_, true) => None,
        (Some(path), _) => {
            let path = path.clone();
            if path.exists() {
                return Err(Failure::refused(format!("key file {} exists already; name another one, it may be the key of another store", path.display())));
            }
            Some(Box::new(move |_| path))
        }
        (None, _) => {
            make_key_dir()?;
            Some(Box::new(|id| default_key_file(id).unwrap_or_else(|_| PathBuf::from(format!("{id}.key")))))
        }
    };
    let report = cairn_store::init(&path, InitOptions { profile, zstd_level: o.zstd_level, encrypted: !o.no_encryption, key_file, passphrase })?;
    print(common, &path.display().to_string(), &report);
    if report.recovery_key.is_some() {
        output::was_read().map_err(|f| {
            Failure::new(
                f.code,
                format!(
                    "{}: the recovery key is lost, and is never shown again; the store is empty, so remove {} and its key file, and make it anew",
                    f.message,
                    path.display()
                ),
            )
        })?;
    }
    Ok(Done::Clean)
}

fn make_key_dir() -> Outcome<()> {
    let file = default_key_file(&cairn_store::format::StoreId([0; 16]))?;
    let dir = file.parent().expect("the default lies in a folder");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::new(WRONG_KEY, format!("cannot create {} for the key file: {e}; use --key-file", dir.display())))
}

fn print(common: &Common, location: &str, report: &InitReport) {
    let key_file = report.key_file.as_ref().map(|p| p.display().to_string());
    let recovery = report.recovery_key.as_ref().map(|k| k.as_str());
    if common.json {
        output::print_json(&serde_json::json!({
            "store": report.store.to_string(), "location": location, "encrypted": recovery.is_some(), "key_file": key_file, "recovery_key": recovery,
        }));
        return;
    }
    out!("store {} made in {location}", report.store);
    match (key_file, recovery) {
        (Some(file), Some(recovery)) => {
            out!("key file: {file}");
            out!("\nrecovery key, printed this once; write it down and keep it apart from this host:\n\n  {recovery}\n");
        }
        _ => out!("it is not encrypted: whoever reads the folder reads the disks"),
    }
}
