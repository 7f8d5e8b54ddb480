//! TLS with client certificates: real clients with the right certificate are served, everybody else learns nothing.

mod serving;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_nbd::codec::handshake::{encode_go, encode_option, option, reply};
use cairn_nbd::server::{Exports, FileExport, Limits, Listener, Server, ServerError, TlsIdentity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serving::{fails, image, run, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority with a server and a client, named as other NBD programs expect them.
fn authority(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).expect("folder");
    let file = |name: &str| text(&dir.join(name)).to_owned();
    let openssl = |args: &[&str]| run("openssl", args);
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=authority",
        "-keyout",
        &file("ca-key.pem"),
        "-out",
        &file("ca-cert.pem"),
    ]);
    for (who, extensions) in [("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")] {
        let (key, request, certificate, ext) = (file(&format!("{who}-key.pem")), file("request.pem"), file(&format!("{who}-cert.pem")), file("ext"));
        std::fs::write(&ext, format!("basicConstraints=CA:FALSE\n{extensions}\n")).expect("write");
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={who}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &file("ca-cert.pem"),
            "-CAkey",
            &file("ca-key.pem"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &ext,
            "-out",
            &certificate,
        ]);
    }
    dir.to_owned()
}

struct Secured {
    dir: tempfile::TempDir,
    ours: PathBuf,
    image: PathBuf,
    address: SocketAddr,
    server: Server,
}

fn identity(dir: &Path) -> TlsIdentity {
    TlsIdentity { certificate: dir.join("server-cert.pem"), key: dir.join("server-key.pem"), client_authorities: dir.join("ca-cert.pem") }
}

async fn start(limits: Limits) -> Secured {
    let dir = tempfile::tempdir().expect("dir");
    let ours = authority(&dir.path().join("ours"));
    let image = image(dir.path());
    let mut exports = Exports::new();
    exports.add("vda", Arc::new(FileExport::open(&image).expect("open"))).expect("name");
    let listener = Listener::tcp_tls("127.0.0.1:0".parse().expect("address"), &identity(&ours)).await.expect("listen");
    let address = listener.tcp_address().expect("TCP");
    let server = Server::start(vec![listener], exports, limits).expect("start");
    Secured { dir, ours, image, address, server }
}

impl Secured {
    fn uri(&self, certificates: &Path) -> String {
        format!("nbds://localhost:{}/vda?tls-certificates={}", self.address.port(), text(certificates))
    }

    /// Connected and greeted, in the clear.
    async fn greeted(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        stream.read_exact(&mut [0; 18]).await.expect("greeting");
        stream.write_all(&[0, 0, 0, 3]).await.expect("flags");
        stream
    }
}

/// An option's first reply.
async fn ask(stream: &mut TcpStream, option: u32, payload: &[u8]) -> Option<u32> {
    stream.write_all(&encode_option(option, payload)).await.ok()?;
    let mut header = [0; 20];
    stream.read_exact(&mut header).await.ok()?;
    let mut rest = vec![0; u32::from_be_bytes(header[16..].try_into().expect("4")) as usize];
    stream.read_exact(&mut rest).await.ok()?;
    Some(u32::from_be_bytes(header[12..16].try_into().expect("4")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_with_a_certificate_are_served() {
    let secured = start(Limits::default()).await;
    let copy = secured.dir.path().join("copy");
    run("nbdcopy", &[&secured.uri(&secured.ours), text(&copy)]);
    assert!(std::fs::read(&copy).expect("copy") == std::fs::read(&secured.image).expect("reference"), "nbdcopy");
    let info = run("nbdinfo", &[&secured.uri(&secured.ours)]);
    assert!(info.contains("with TLS") && info.contains("base:allocation"), "{info}");
    let object = format!("tls-creds-x509,id=t,endpoint=client,dir={}", text(&secured.ours));
    let image = format!("driver=nbd,host=localhost,port={},export=vda,tls-creds=t", secured.address.port());
    run("qemu-img", &["compare", "--object", &object, "--image-opts", &image, &format!("driver=raw,file.filename={}", text(&secured.image))]);
    secured.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_the_right_certificate_are_not() {
    let secured = start(Limits::default()).await;
    let theirs = authority(&secured.dir.path().join("theirs"));
    std::fs::copy(secured.ours.join("ca-cert.pem"), theirs.join("ca-cert.pem")).expect("they know our authority");
    fails("nbdinfo", &[&secured.uri(&theirs)]);
    let none = secured.dir.path().join("none");
    std::fs::create_dir(&none).expect("folder");
    std::fs::copy(secured.ours.join("ca-cert.pem"), none.join("ca-cert.pem")).expect("they know our authority");
    fails("nbdinfo", &[&secured.uri(&none)]);
    let plain = fails("nbdinfo", &[&format!("nbd://localhost:{}/vda", secured.address.port())]);
    assert!(plain.to_lowercase().contains("tls"), "{plain}");
    assert_eq!(secured.server.connections(), 0);
    secured.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_before_tls_and_nothing_said_before_counts() {
    let limits = Limits { negotiation_limit: Duration::from_secs(3), ..Limits::default() };
    let secured = start(limits).await;
    let mut stream = secured.greeted().await;
    let go = encode_go("vda", &[]).expect("short");
    for wish in [option::LIST, option::INFO, option::GO, option::STRUCTURED_REPLY, option::LIST_META_CONTEXT, option::SET_META_CONTEXT, 99] {
        assert_eq!(ask(&mut stream, wish, &go).await, Some(reply::ERR_TLS_REQD), "{wish}");
    }
    assert_eq!(ask(&mut stream, option::STARTTLS, b"x").await, Some(reply::ERR_INVALID));
    assert_eq!(ask(&mut stream, option::ABORT, &[]).await, Some(reply::ACK));
    let mut stream = secured.greeted().await;
    assert_eq!(ask(&mut stream, option::EXPORT_NAME, b"vda").await, None, "the old way in is closed");

    // What is sent with STARTTLS in one piece is no option inside TLS: the handshake fails on it.
    let mut stream = secured.greeted().await;
    let smuggled = [encode_option(option::STARTTLS, &[]), encode_option(option::LIST, &[])].concat();
    stream.write_all(&smuggled).await.expect("write");
    stream.read_exact(&mut [0; 20]).await.expect("STARTTLS is accepted");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(!rest.windows(3).any(|w| w == b"vda"), "the export's name in the clear");

    // The same client done right, by a library that is not the clients' above.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(secured.ours.join("ca-cert.pem")).expect("authority")).expect("root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(secured.ours.join("client-cert.pem")).expect("certificate")],
            PrivateKeyDer::from_pem_file(secured.ours.join("client-key.pem")).expect("key"),
        )
        .expect("client");
    let mut stream = secured.greeted().await;
    assert_eq!(ask(&mut stream, option::STARTTLS, &[]).await, Some(reply::ACK));
    let name = ServerName::try_from("localhost").expect("name");
    let mut inside = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    inside.write_all(&encode_option(option::STARTTLS, &[])).await.expect("write");
    let mut header = [0; 20];
    inside.read_exact(&mut header).await.expect("reply");
    assert_eq!(header[12..16], reply::ERR_INVALID.to_be_bytes(), "TLS inside TLS");

    // A handshake that never goes on.
    let mut stream = secured.greeted().await;
    assert_eq!(ask(&mut stream, option::STARTTLS, &[]).await, Some(reply::ACK));
    let began = Instant::now();
    stream.read_to_end(&mut Vec::new()).await.ok();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    secured.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let ours = authority(&dir.path().join("ours"));
    let good = identity(&ours);
    let address = "127.0.0.1:0".parse().expect("address");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").expect("write");
    for (broken, named) in [
        (TlsIdentity { certificate: dir.path().join("missing"), ..good.clone() }, "missing"),
        (TlsIdentity { key: empty.clone(), ..good.clone() }, "empty"),
        (TlsIdentity { client_authorities: empty.clone(), ..good.clone() }, "empty"),
        (TlsIdentity { key: ours.join("client-key.pem"), ..good.clone() }, "server-cert.pem"),
    ] {
        match Listener::tcp_tls(address, &broken).await {
            Err(error @ ServerError::Tls { .. }) => assert!(error.to_string().contains(named), "{error}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{broken:?} is accepted"),
        }
    }
}
