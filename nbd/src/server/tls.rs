//! TLS by certificates on both sides.
//!
//! Invariants: a client without a certificate of the given authority gets no further than the handshake; TLS 1.2 at least; keys stay where rustls
//! keeps them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::error::ServerError;

/// Who the server is, and whose clients it serves. All files are PEM.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// The server's certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities that sign clients.
    pub client_authorities: PathBuf,
}

impl TlsIdentity {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, ServerError> {
        let bad = |path: &Path, problem: String| ServerError::Tls { path: path.to_owned(), problem };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.client_authorities)? {
            roots.add(authority).map_err(|e| bad(&self.client_authorities, format!("a certificate cannot be used: {e}")))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|e| bad(&self.client_authorities, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| bad(&self.key, format!("no private key can be read: {e}")))?;
        let chain = certificates(&self.certificate)?;
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
            .map(Arc::new)
            .map_err(|e| bad(&self.certificate, format!("it cannot be used with {}: {e}", self.key.display())))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let bad = |problem: String| ServerError::Tls { path: path.to_owned(), problem };
    let found = CertificateDer::pem_file_iter(path).map_err(|e| bad(format!("it cannot be read: {e}")))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|e| bad(format!("it cannot be read: {e}")))?;
    if found.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(found) }
}
