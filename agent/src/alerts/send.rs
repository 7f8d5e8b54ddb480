//! How a message gets to a target, within a limit.

use super::{command, message::Message, smtp, web};
use crate::{
    config::{AlertTarget, Way},
    context,
};
use std::{fs, io::Read, path::Path, time::Duration};

/// For one message, from the first byte to the last.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Longest file with headers or a password.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Sends it; what is to be said of it though it was delivered. An error says why it was not.
pub async fn send(target: &AlertTarget, message: &Message, limit: Duration) -> Result<Option<String>, String> {
    let sent = async {
        match &target.way {
            Way::Mail(mail) => smtp::send(mail, message).await,
            Way::Webhook(hook) => web::send(hook, message).await.map(|()| None),
            // It has to be ended, where it takes too long.
            Way::Command(argv) => command::run(argv, message, limit).await.map(|()| None),
        }
    };
    // A little later than the program's own.
    tokio::time::timeout(limit + Duration::from_secs(1), sent).await.unwrap_or_else(|_| Err(format!("it did not come to an end within {} s", limit.as_secs())))
}

/// A secret's text; nobody else may read its file.
pub async fn secret(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    let path = path.to_owned();
    // A file system that hangs must not hang the others.
    tokio::task::spawn_blocking(move || read_secret(&path)).await.map_err(|e| e.to_string())?
}

/// See [`secret`].
pub fn read_secret(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    context::check_secret(path)?;
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut text = zeroize::Zeroizing::new(String::new());
    fs::File::open(path).map_err(fail)?.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// First line of a password's file.
pub async fn password(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    let text = secret(path).await?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || line.contains('\0') {
        return Err(format!("{}: its first line is no password", path.display()));
    }
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}

/// What of a target's files cannot be used, for those who look before it is needed.
pub fn check(target: &AlertTarget) -> Result<(), String> {
    match &target.way {
        Way::Command(argv) => argv.first().map_or(Ok(()), |program| crate::config::is_program(program.as_ref()).map_err(|why| format!("{program}: {why}"))),
        Way::Mail(mail) => {
            mail.login.as_ref().map_or(Ok(()), |(_, file)| read_secret(file).map(drop))?;
            mail.ca_file.as_ref().map_or(Ok(()), |file| super::tls::roots(Some(file)).map(drop))
        }
        Way::Webhook(hook) => {
            hook.headers_file.as_ref().map_or(Ok(()), |file| read_secret(file).and_then(|text| web::headers(&text, file)).map(drop))?;
            hook.ca_file.as_ref().map_or(Ok(()), |file| super::tls::roots(Some(file)).map(drop))
        }
    }
}
