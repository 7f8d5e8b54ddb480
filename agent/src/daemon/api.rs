//! The API (docs/api.md): versioned JSON over HTTP. Keys are only ever added.
//!
//! Invariants
//! - An answer that is no success is an object `{"error", "remedy", "wrong", "code", "kind"}`, whatever was asked. What is a list is one (`wrong`), and in
//!   none of the texts.
//! - Bodies are bounded, and what is not understood in them is an error.

use super::{
    orders::{BackupWanted, Known},
    state::{NotReloaded, Reloaded, Shared},
};
use crate::{
    config::Word,
    failure::{BUSY, FAILED, Failure, NOT_FOUND, Outcome, REFUSED, USAGE},
    jobs::{JobId, State as JobState, Which},
    points::check_name,
};
use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, RawQuery, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cairn_hook::Uuid;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Longest body of a request.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest piece of a log in one answer.
const LOG_BYTES_MAX: u64 = 256 << 10;

type Ctx = State<Arc<Shared>>;
type Answer = Result<Response, Wrong>;
type Body = Result<Bytes, BytesRejection>;

/// All that can be asked.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v1/health", get(health))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/{id}", get(job))
        .route("/api/v1/jobs/{id}/log", get(log))
        .route("/api/v1/jobs/{id}/cancel", post(cancel))
        .route("/api/v1/backups", post(backups))
        .route("/api/v1/domains", get(domains))
        .route("/api/v1/reconcile", post(reconcile))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/alerts/test", post(test_alerts))
        .route("/api/v1/alerts/silence", post(silence))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// A failure on its way out.
struct Wrong {
    failure: Failure,
    status: Option<StatusCode>,
    /// Several things that are wrong, each by itself.
    wrong: Option<Vec<String>>,
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self { failure, status: None, wrong: None }
    }
}

impl From<NotReloaded> for Wrong {
    fn from(NotReloaded { failure, wrong }: NotReloaded) -> Self {
        Self { failure, status: None, wrong: (!wrong.is_empty()).then_some(wrong) }
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or(match self.failure.code {
            USAGE => StatusCode::BAD_REQUEST,
            NOT_FOUND => StatusCode::NOT_FOUND,
            REFUSED => StatusCode::CONFLICT,
            BUSY => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        });
        // Messages name what happened first, then what to do.
        let (error, remedy) = match self.failure.message.split_once("; ") {
            Some((error, remedy)) => (error, Some(remedy)),
            None => (self.failure.message.as_str(), None),
        };
        answer(status, &json!({"error": error, "remedy": remedy, "wrong": self.wrong, "code": self.failure.code, "kind": self.failure.kind()}))
    }
}

/// What nobody can be asked with, in the words of an answer's body: its head never became a request.
pub fn refusal(error: &str, remedy: &str) -> String {
    let failure = Failure::usage(String::new());
    json!({"error": error, "remedy": remedy, "wrong": null, "code": failure.code, "kind": failure.kind()}).to_string()
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], value.to_string()).into_response()
}

fn ok(value: &Value) -> Answer {
    Ok(answer(StatusCode::OK, value))
}

/// A body's object; no body is an empty one.
fn read<T: DeserializeOwned>(body: Body) -> Result<T, Wrong> {
    let body = body.map_err(|e| Wrong {
        status: Some(e.status()),
        wrong: None,
        failure: Failure::usage(format!("the body cannot be read: {}; it has at most {BODY_BYTES_MAX} bytes", e.body_text())),
    })?;
    let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
    Ok(serde_json::from_slice(text).map_err(|e| Failure::usage(format!("the body cannot be read: {e}; docs/api.md has what it may say")))?)
}

/// Keys and values of a query; `known` are all that may be there.
fn query(raw: Option<&str>, known: &[&str]) -> Outcome<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for pair in raw.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&key) {
            return Err(Failure::usage(format!("the query has no '{key}'; it may have: {}", known.join(", "))));
        }
        if out.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("the query has '{key}' twice; once is enough")));
        }
    }
    Ok(out)
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Outcome<T> {
    text.parse().map_err(|_| Failure::usage(format!("'{text}' is no {what}; write a number")))
}

/// The number in a path; bytes that are no text are none.
type Id = Result<Path<String>, PathRejection>;

fn job_id(id: Id) -> Outcome<JobId> {
    let Path(text) = id.map_err(|e| Failure::usage(format!("the path cannot be read: {}; write the number of a job in it", e.body_text())))?;
    number("number of a job", &text)
}

async fn health(State(shared): Ctx) -> Answer {
    ok(&shared.health().await)
}

async fn jobs(State(shared): Ctx, RawQuery(raw): RawQuery) -> Answer {
    let asked = query(raw.as_deref(), &["state", "since_unix_ms"])?;
    let which = match (asked.get("state"), asked.get("since_unix_ms")) {
        (Some(_), Some(_)) => return Err(Failure::usage("state and since_unix_ms exclude each other; give one").into()),
        (Some(word), None) => Which::In(JobState::parse(word).ok_or_else(|| {
            let all: Vec<&str> = JobState::ALL.into_iter().map(JobState::word).collect();
            Failure::usage(format!("'{word}' is no state of a job; there are: {}", all.join(", ")))
        })?),
        (None, Some(ms)) => Which::Since(number("time", ms)?),
        (None, None) => Which::All,
    };
    let jobs = shared.jobs.list(which).await?;
    ok(&shared.jobs_json(&jobs).await.into())
}

async fn job(State(shared): Ctx, id: Id) -> Answer {
    let job = shared.jobs.get(job_id(id)?).await?;
    ok(&shared.job_json(&job).await)
}

async fn log(State(shared): Ctx, id: Id, RawQuery(raw): RawQuery) -> Answer {
    let asked = query(raw.as_deref(), &["offset"])?;
    let offset = asked.get("offset").map_or(Ok(0), |text| number("offset", text))?;
    // First how it stands, then what it said: whoever sees it over has all of it.
    let job = shared.jobs.get(job_id(id)?).await?;
    let folder = shared.jobs.folder(job.id);
    let piece = tokio::task::spawn_blocking(move || folder.read_log(offset, LOG_BYTES_MAX));
    let piece = tokio::time::timeout(crate::jobs::ANSWER_LIMIT, piece).await;
    let piece = piece.map_err(|_| Failure::new(BUSY, "the log cannot be read; is the disk of the state folder in order?"))?;
    let piece = piece.map_err(|e| Failure::new(FAILED, format!("the log cannot be read: {e}")))??;
    ok(&json!({
        "id": job.id, "state": job.state.word(), "over": job.state.is_over(), "offset": piece.offset, "next_offset": piece.next_offset, "text": piece.text,
    }))
}

async fn cancel(State(shared): Ctx, id: Id) -> Answer {
    let job = shared.jobs.cancel(job_id(id)?).await?;
    Ok(answer(StatusCode::ACCEPTED, &shared.job_json(&job).await))
}

async fn backups(State(shared): Ctx, body: Body) -> Answer {
    let wanted: BackupWanted = read(body)?;
    let (known, word) = known(&shared, &wanted).await?;
    let orders = shared.order(|ordering| ordering.of_request(&wanted, known.as_ref(), &word, "asked for over the API"))?;
    if let Some(domain) = &wanted.domain {
        shared.check_defined(domain).await?;
    }
    Ok(answer(StatusCode::ACCEPTED, &json!({"jobs": shared.add(orders).await?})))
}

/// Policies select by name: a UUID is looked up in the watch's records. Where a store or a policy is named, the domain need not have been seen yet.
async fn known(shared: &Arc<Shared>, wanted: &BackupWanted) -> Outcome<(Option<Known>, Word)> {
    let Some(domain) = &wanted.domain else { return Ok((None, Word::default())) };
    let Some(uuid) = Uuid::parse(domain.as_bytes()) else {
        // Without records there is no word, and a name is enough.
        let word = shared.word_of(|one| one.subject.name == *domain).await.unwrap_or_default();
        return Ok((None, word));
    };
    let uuid = uuid.to_string();
    let found = shared.seen().await?.into_iter().find(|one| one.uuid == uuid);
    match found {
        Some(one) => Ok((Some(Known { uuid, name: one.subject.name }), one.subject.word)),
        None if wanted.store.is_some() || wanted.policy.is_some() => Ok((None, Word::default())),
        None => Err(Failure::not_found(format!(
            "no domain with the UUID {uuid} was seen yet, so no policy can be found for it; name a store or a policy, or look at 'GET /api/v1/domains'"
        ))),
    }
}

async fn domains(State(shared): Ctx) -> Answer {
    ok(&shared.of_watch(|watch| watch.domains()).await?)
}

/// `POST /api/v1/reconcile`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReconcileWanted {
    domain: Option<String>,
}

async fn reconcile(State(shared): Ctx, body: Body) -> Answer {
    let wanted: ReconcileWanted = read(body)?;
    wanted.domain.as_deref().map_or(Ok(()), check_name)?;
    let begun = shared.of_watch(move |watch| watch.reconcile(wanted.domain.as_deref())).await?;
    Ok(answer(StatusCode::ACCEPTED, &begun))
}

async fn reload(State(shared): Ctx) -> Answer {
    let Reloaded { path, restart_needed } = shared.reload().await?;
    ok(&json!({"reloaded": true, "path": path.map(|p| p.display().to_string()), "restart_needed": restart_needed}))
}

async fn alerts(State(shared): Ctx) -> Answer {
    ok(&shared.alerts.json(&shared.config()))
}

/// `POST /api/v1/alerts/test`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestWanted {
    target: Option<String>,
}

async fn test_alerts(State(shared): Ctx, body: Body) -> Answer {
    let wanted: TestWanted = read(body)?;
    ok(&shared.test_alerts(wanted.target.as_deref()).await?)
}

/// `POST /api/v1/alerts/silence`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SilenceWanted {
    key: String,
    for_s: u64,
}

async fn silence(State(shared): Ctx, body: Body) -> Answer {
    let wanted: SilenceWanted = read(body)?;
    let until = shared.alerts.silence(&wanted.key, wanted.for_s.saturating_mul(1000))?;
    ok(&json!({"key": wanted.key, "silent_until": (wanted.for_s > 0).then(|| crate::output::rfc3339(until))}))
}

async fn nowhere() -> Wrong {
    Wrong { failure: Failure::not_found("there is no such path; docs/api.md has all of them"), status: Some(StatusCode::NOT_FOUND), wrong: None }
}

async fn wrong_method() -> Wrong {
    Wrong { failure: Failure::usage("this path is asked in another way; docs/api.md says how"), status: Some(StatusCode::METHOD_NOT_ALLOWED), wrong: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_strictly() {
        let read = |raw| query(Some(raw), &["state", "offset"]);
        assert_eq!(read("state=done&offset=3").expect("reads").get("offset").map(String::as_str), Some("3"));
        assert!(query(None, &[]).expect("reads").is_empty());
        for wrong in ["stat=done", "state=a&state=b"] {
            assert_eq!(read(wrong).expect_err("is refused").code, USAGE, "{wrong}");
        }
    }
}
