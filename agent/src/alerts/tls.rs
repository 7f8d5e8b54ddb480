//! TLS to servers that take messages: always verified, against the system's certificates or those of a file.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Where distributions keep the certificates that they trust.
const SYSTEM: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem"];

/// Certificates that are trusted.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let path = match ca_file {
        Some(path) => path,
        None => SYSTEM
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or("the system has no trusted certificates (package ca-certificates); or name a ca_file")?,
    };
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut roots = RootCertStore::empty();
    let mut refused = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fail(&e))? {
        // A bundle may have one that no library takes any more.
        refused += usize::from(roots.add(certificate.map_err(|e| fail(&e))?).is_err());
    }
    if roots.is_empty() {
        return Err(fail(&format!("there is no certificate in it that can be used ({refused} cannot)")));
    }
    Ok(roots)
}

/// Begins TLS on a connection.
pub async fn begin(stream: TcpStream, host: &str, ca_file: Option<&Path>) -> Result<TlsStream<TcpStream>, String> {
    let ca_file = ca_file.map(Path::to_owned);
    let roots = tokio::task::spawn_blocking(move || roots(ca_file.as_deref())).await.map_err(|e| e.to_string())??;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("'{host}' cannot be the name in a certificate"))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| format!("TLS with {host}: {e}"))
}
