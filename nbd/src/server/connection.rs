//! One connection from its first byte to its last.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::BufReader;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::budget::Budget;
use super::error::End;
use super::negotiate::{Agreed, Negotiation, Outcome, Tls};
use super::replies::ReplyWriter;
use super::requests::{Context, REQUEST_BUFFER_BYTES, Requests};
use super::running::{Negotiating, Shared, told};
use super::stream::Stream;

/// Serves one client. `turn` is given back when the negotiation is over.
pub(super) async fn serve(
    stream: Stream,
    shared: Arc<Shared>,
    tls: Option<Arc<ServerConfig>>,
    turn: Negotiating,
    mut stop: watch::Receiver<bool>,
) -> Result<(), End> {
    let limit = shared.limits.negotiation_limit;
    let negotiated = tokio::select! {
        result = timeout(limit, negotiate(stream, &shared, tls)) => result.map_err(|_| End::Slow { what: "negotiating", limit })??,
        () = told(&mut stop) => return Ok(()),
    };
    drop(turn);
    match negotiated {
        Some((stream, agreed)) => transmit(stream, agreed, &shared, stop).await,
        None => Ok(()),
    }
}

async fn negotiate(mut stream: Stream, shared: &Shared, tls: Option<Arc<ServerConfig>>) -> Result<Option<(Stream, Agreed)>, End> {
    let state = if tls.is_some() { Tls::Required } else { Tls::NotOffered };
    let mut negotiation = Negotiation::new(&shared.exports, &shared.limits, &shared.places, state);
    negotiation.greet(&mut stream).await?;
    loop {
        stream = match (negotiation.options(&mut stream).await?, stream) {
            (Outcome::Transmit(agreed), stream) => return Ok(Some((stream, agreed))),
            (Outcome::StartTls, Stream::Tcp(tcp)) => {
                let config = tls.clone().expect("STARTTLS is accepted only where TLS is configured");
                negotiation.tls = Tls::Done;
                Stream::Tls(Box::new(TlsAcceptor::from(config).accept(tcp).await?))
            }
            (Outcome::StartTls | Outcome::Farewell, _) => return Ok(None),
        };
    }
}

async fn transmit(stream: Stream, agreed: Agreed, shared: &Arc<Shared>, mut stop: watch::Receiver<bool>) -> Result<(), End> {
    let Agreed { name, export, structured, allocation, place } = agreed;
    let limits = shared.limits;
    let (reader, writer) = stream.split();
    let mut reader = BufReader::with_capacity(REQUEST_BUFFER_BYTES, reader);
    let (to_client, replies) = mpsc::unbounded_channel();
    let writer = ReplyWriter { writer, limits, export: export.clone(), readers: shared.readers.clone() }.run(replies);
    tokio::pin!(writer);
    let size_bytes = export.size_bytes();
    let context = Arc::new(Context { name, export, structured, to_client, complaints: AtomicU32::new(0) });
    let requests = Requests {
        context,
        limits,
        size_bytes,
        allocation,
        budget: Budget::new(limits.connection_bytes_max, limits.own_bytes, shared.bytes.clone()),
        places: Arc::new(Semaphore::new(limits.requests_max)),
        readers: shared.readers.clone(),
    };
    let end = tokio::select! {
        end = requests.run(&mut reader) => end,
        // The writer ends before the reader only by failing.
        end = &mut writer => return end,
        () = told(&mut stop) => Ok(()),
    };
    end?;
    // What was accepted is answered; the last reply's end is the writer's.
    drop(requests);
    let result = tokio::select! {
        end = &mut writer => end,
        () = stopped(&mut stop, limits.stop_limit) => Err(End::Slow { what: "ending the requests in flight", limit: limits.stop_limit }),
    };
    drop(place);
    result
}

/// So long after the server was told to stop.
async fn stopped(stop: &mut watch::Receiver<bool>, limit: Duration) {
    told(stop).await;
    tokio::time::sleep(limit).await;
}
