//! `POST /import`: memories from a file, ours (NDJSON, streamed) or the earlier stellar-memory's (JSON, whole).
//!
//! What is wrong is refused line by line, and the rest is imported. A repeated import stores nothing twice, so one that
//! broke off is simply sent again. Batches have a transaction each; between them, and while the client is slow, none is open.
//! A tenant has one import at a time: the body of the next one stays unread until its turn.

mod lines;
mod rows;

use axum::{
    Json,
    body::BodyDataStream,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tenancy::{Problem, ProblemType};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    Api, ApiError,
    error::problem,
    export::{FORMAT, VERSION},
    members::fault,
    operations::counted,
    params::Params,
    tenant_request::TenantRequest,
};
use crate::{
    error_chain,
    memory::Invalid,
    store::{Arrival, Arrived, Caller, ImportTurn, LineFull, MOST_IMPORTS_WAITING, StoreError},
};
use lines::{Line, Lines, next_part};
use rows::EarlierItem;

/// The largest body.
pub(super) const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The version of the earlier system's export.
const EARLIER: &str = "0.3.0";
/// A batch is full with so many memories …
const BATCH: usize = 500;
/// … or so many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Errors that are told one by one; further ones are counted.
const ERRORS_TOLD: usize = 100;
const MAX_DETAIL_CHARS: usize = 300;

/// What became of an import.
#[derive(Serialize, Default, ToSchema)]
pub(super) struct ImportReport {
    /// Memories that are new.
    imported: u64,
    /// Memories that the tenant has already; they are as they were.
    existing: u64,
    /// Lines, or items, that were not taken.
    refused: u64,
    /// Whether the file was whole: with as many memories between its first and its last line as these say.
    complete: bool,
    /// Why, of the first 100.
    errors: Vec<LineError>,
}

/// What is wrong with one line.
#[derive(Serialize, ToSchema)]
#[schema(as = ImportError)]
pub(super) struct LineError {
    /// Its number from 1; of JSON, the item's.
    line: u64,
    /// As of a request with this line alone.
    #[schema(schema_with = super::openapi::problem)]
    problem: Problem,
}

/// The earlier system's export. Its items are read one by one.
#[derive(Deserialize)]
struct Earlier<'a> {
    version: String,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// Imports memories, and tells what cannot be
///
/// Lines as `GET /export` gives them, or the JSON of an earlier stellar-memory. What is wrong is refused line by line, and the
/// rest is imported. What is there already stays as it is, so an import that broke off is simply sent again.
#[utoipa::path(post, path = "/api/v1/import", tag = "memories", operation_id = "import",
    request_body(content(
        (String = "application/x-ndjson", example = json!("{\"content\": \"Ada prefers night flights to Lisbon\"}\n")),
        (serde_json::Value = "application/json", example = json!({ "version": "0.3.0", "items": [] })),
    )),
    responses((status = 200, description = "What became of each line", body = ImportReport)),
)]
pub(super) async fn import(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let (mut body, mut report) = (body.into_data_stream(), ImportReport::default());
    let outcome = match params.nothing_else() {
        Ok(()) => run(&api, &caller, &parts.headers, &mut body, &mut report).await,
        Err(error) => Err(error),
    };
    if report.imported > 0 {
        api.activity.seen(&caller);
    }
    if outcome.is_err() {
        drain(&mut body).await;
    }
    report.errors.sort_by_key(|error| error.line);
    counted(report.imported + report.existing + report.refused, outcome.map(|()| Json(report)))
}

async fn run(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
    report: &mut ImportReport,
) -> Result<(), ApiError> {
    let form = Form::of(headers)?;
    let turn = turn(api, caller).await?;
    let mut importer = Importer { turn, caller, batch: Vec::new(), bytes: 0, report };
    match form {
        Form::Lines => importer.lines(body).await?,
        Form::Whole => {
            // The text is in memory as long as it is worked on, so only some at a time.
            let _place = api.whole_imports.acquire().await;
            importer.whole(body).await?;
        }
    }
    importer.flush().await
}

/// How a file is written.
enum Form {
    /// As lines of ours.
    Lines,
    /// As the earlier system's JSON.
    Whole,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Self::Lines),
            "application/json" => Ok(Self::Whole),
            _ => Err(ApiError::new(
                ProblemType::UnsupportedMediaType,
                "send lines as GET /export gives them with Content-Type: application/x-ndjson, or the JSON of an earlier \
                 stellar-memory with Content-Type: application/json",
            )),
        }
    }
}

/// Waits until no other import of the tenant is under way.
async fn turn(api: &Api, caller: &Caller) -> Result<ImportTurn, ApiError> {
    let refused = |detail: String| ApiError::new(ProblemType::Unavailable, detail);
    tokio::select! {
        biased;
        turn = api.coalescer.import_turn(caller) => turn.map_err(|LineFull| refused(format!(
            "an import of this tenant is under way and {MOST_IMPORTS_WAITING} more wait for it: send this one when they \
             have ended"
        ))),
        () = api.closing.cancelled() => Err(refused("this engine is about to end: send the import again".to_owned())),
    }
}

/// A client that still writes hears an answer only when what it writes is read.
async fn drain(body: &mut BodyDataStream) {
    let mut left = MAX_BYTES;
    while let Ok(Some(_)) = next_part(body, &mut left, MAX_BYTES).await {}
}

struct Importer<'a> {
    turn: ImportTurn,
    caller: &'a Caller,
    batch: Vec<(u64, Arrival)>,
    bytes: usize,
    report: &'a mut ImportReport,
}

impl Importer<'_> {
    async fn lines(&mut self, body: &mut BodyDataStream) -> Result<(), ApiError> {
        let mut lines = Lines::new(body, MAX_BYTES);
        // Memories since a first line without its last.
        let mut open: Option<u64> = None;
        let (mut last, mut any) = (0, false);
        self.report.complete = true;
        while let Some((number, line)) = lines.next().await? {
            last = number;
            let line = match &line {
                Line::TooLong => Err("the line is longer than any memory".to_owned()),
                Line::Whole(line) => match line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii() {
                    [] => continue,
                    line => parse::<rows::Line>(line).map(|parsed| (parsed, line.len())),
                },
            };
            any = true;
            match line {
                Ok((rows::Line { content: None, format: Some(format), version, .. }, _)) => {
                    check_format(number, &format, version)?;
                    self.report.complete &= open.is_none();
                    open = Some(0);
                    continue;
                }
                Ok((rows::Line { content: None, end: Some(true), count, .. }, _)) => {
                    self.end(number, open.take(), count);
                    continue;
                }
                Ok((row, size)) => {
                    let arrival = row.check(self.caller.tenant, OffsetDateTime::now_utc());
                    self.take(number, arrival, size).await?;
                }
                Err(detail) => self.refuse(number, Problem::new(ProblemType::InvalidRequest, detail)),
            }
            open = open.map(|count| count + 1);
        }
        if !any {
            return Err(ApiError::new(ProblemType::InvalidRequest, "the body is empty"));
        }
        if open.is_some() {
            self.incomplete(last + 1, "the last line is missing: the file is not whole; export it again".to_owned());
        }
        Ok(())
    }

    /// `held`: memories since the first line, if there was one.
    fn end(&mut self, line: u64, held: Option<u64>, told: Option<u64>) {
        match held {
            None => self.incomplete(line, "this is an end without a beginning".to_owned()),
            Some(held) if told.is_some_and(|told| told != held) => {
                let told = told.unwrap_or_default();
                self.incomplete(line, format!("{told} memories should come before this line, and {held} do"));
            }
            Some(_) => {}
        }
    }

    async fn whole(&mut self, body: &mut BodyDataStream) -> Result<(), ApiError> {
        let (mut text, mut left) = (Vec::new(), MAX_BYTES);
        while let Some(part) = next_part(body, &mut left, MAX_BYTES).await? {
            text.extend_from_slice(&part);
        }
        let invalid = |detail: String| ApiError::new(ProblemType::InvalidRequest, detail);
        let earlier: Earlier<'_> = serde_json::from_slice(&text).map_err(|error| {
            invalid(format!(
                "the body is no {{\"version\": \"{EARLIER}\", \"items\": […]}}: {error}; lines as GET /export gives them are \
                 sent with Content-Type: application/x-ndjson"
            ))
        })?;
        if earlier.version != EARLIER {
            let version: String = earlier.version.chars().take(20).collect();
            return Err(invalid(format!("an export of version {version} cannot be read; {EARLIER} can")));
        }
        self.report.complete = true;
        let mut number = 0;
        for item in earlier.items {
            number += 1;
            match parse::<EarlierItem>(item.get().as_bytes()) {
                Ok(item) => {
                    // Vectors are passed over, and count nothing.
                    let (arrival, size) = (item.check(self.caller.tenant, OffsetDateTime::now_utc()), 0);
                    self.take(number, arrival, size).await?;
                }
                Err(detail) => self.refuse(number, Problem::new(ProblemType::InvalidRequest, detail)),
            }
        }
        Ok(())
    }

    async fn take(&mut self, line: u64, arrival: Result<Arrival, Invalid>, size: usize) -> Result<(), ApiError> {
        match arrival {
            Err(invalid) => self.refuse(line, problem(invalid.into())),
            Ok(arrival) => {
                self.bytes += size.max(arrival.memory.content.len());
                self.batch.push((line, arrival));
            }
        }
        if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ApiError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let (lines, arrivals): (Vec<u64>, Vec<Arrival>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let results = self.turn.import(arrivals).await.map_err(|error| interrupted(error, self.report.imported))?;
        for (line, result) in lines.into_iter().zip(results) {
            match result {
                Ok(Arrived::Now) => self.report.imported += 1,
                Ok(Arrived::Before) => self.report.existing += 1,
                Err(error) => self.refuse(line, problem(error.into())),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, line: u64, problem: Problem) {
        self.report.refused += 1;
        self.tell(line, problem);
    }

    fn incomplete(&mut self, line: u64, detail: String) {
        self.report.complete = false;
        self.tell(line, Problem::new(ProblemType::InvalidRequest, detail));
    }

    fn tell(&mut self, line: u64, problem: Problem) {
        if self.report.errors.len() < ERRORS_TOLD {
            self.report.errors.push(LineError { line, problem });
        }
    }
}

fn check_format(line: u64, format: &str, version: Option<i64>) -> Result<(), ApiError> {
    if format == FORMAT && version == Some(VERSION) {
        return Ok(());
    }
    let detail = format!("line {line} begins another format than \"{FORMAT}\", version {VERSION}, which can be read");
    Err(ApiError::new(ProblemType::InvalidRequest, detail))
}

/// One line of JSON. Places within it are of no use to whoever counts lines.
fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    if line.first() != Some(&b'{') {
        return Err("the line is no JSON object".to_owned());
    }
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    serde_json::from_str(text).map_err(|error| {
        format!("the line is not valid: {}", fault(text, &error)).chars().take(MAX_DETAIL_CHARS).collect()
    })
}

/// After the first batch "nothing was changed" is not true any more.
fn interrupted(error: StoreError, imported: u64) -> ApiError {
    if imported == 0 {
        return error.into();
    }
    tracing::warn!(error = error_chain(&error), imported, "an import was interrupted");
    let kind = match error {
        StoreError::Failed { .. } | StoreError::Lost(_) => ProblemType::Internal,
        _ => ProblemType::Unavailable,
    };
    let detail = format!(
        "the import stopped after {imported} memories, which are kept; send the same again, nothing is stored twice"
    );
    ApiError::Problem(Box::new(Problem::new(kind, detail).with("imported", imported)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_line_is_told_what_is_wrong_and_not_where_in_it() {
        let told = |line: &str| match parse::<rows::Line>(line.as_bytes()) {
            Ok(_) => panic!("{line} is valid"),
            Err(detail) => detail,
        };
        assert_eq!(told("id,content"), "the line is no JSON object");
        let detail = told(r#"{"content":5}"#);
        assert!(detail.contains("`content`: invalid type") && !detail.contains("at line"), "{detail}");
        let long = told(&format!(r#"{{"recall_count":"{}"}}"#, "x".repeat(5000)));
        assert!(long.chars().count() <= MAX_DETAIL_CHARS, "{long}");
    }
}
