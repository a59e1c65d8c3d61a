//! `GET /export`: all memories, as lines of JSON (NDJSON) that `POST /import` takes.
//!
//! The first line tells the format and where the change log stood, the last one how many memories came before it: where it
//! is missing, the export is not whole. Each page has its own transaction, so an export holds no snapshot, however slowly it
//! is read. What was there at the start and was not forgotten meanwhile is in it once, as it was when its page was read;
//! what changed since is told by the change log after the first line's `change_seq`.

use std::io;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Api, ApiError,
    params::Params,
    tenant_request::TenantRequest,
    view::{MemoryView, rounded},
};
use crate::{
    error_chain,
    memory::{Memory, Standing},
    store::{Access, Caller, StoreError, Usage},
};

/// The word in the first line.
pub(super) const FORMAT: &str = "stellar-memory";
/// The version of the lines.
pub(super) const VERSION: i64 = 1;
/// Of lines.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Few enough that a page of the longest contents is some megabytes.
const PAGE: i64 = 200;

/// The first line.
#[derive(Serialize)]
struct Head {
    format: &'static str,
    version: i64,
    change_seq: i64,
    total: i32,
}

/// The last line.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "as JSON has it")]
struct End {
    end: bool,
    count: u64,
    change_seq: i64,
}

/// A line between: a memory as the API shows it, and what only an import needs.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    memory: MemoryView,
    /// Relevance to the query of the last recall, as the score has it.
    context: f32,
}

/// Where an export is.
struct Exporter {
    api: Api,
    caller: Caller,
    after: Uuid,
    count: u64,
}

/// Exports every memory, by rising id, as lines of JSON
///
/// The first line tells the format and where the change log stood, the last one how many memories came before it: where it
/// is missing, the export is not whole. `POST /import` takes them.
#[utoipa::path(get, path = "/api/v1/export", tag = "memories", operation_id = "export", responses(
    (status = 200, description = "One object a line", body = String, content_type = "application/x-ndjson", headers(
        ("Content-Disposition" = String, description = "A name for the file"),
    )),
))]
pub(super) async fn export(
    State(api): State<Api>,
    TenantRequest(caller): TenantRequest,
    params: Params,
) -> Result<Response, ApiError> {
    params.nothing_else()?;
    let mut exporter = Exporter { api, caller, after: Uuid::nil(), count: 0 };
    // What keeps it from beginning is told as of any other request.
    let (page, usage) = exporter.page().await?;
    let head = Head { format: FORMAT, version: VERSION, change_seq: usage.change_seq, total: usage.memory_count };
    let mut first = Vec::new();
    write_line(&mut first, &head);
    let more = exporter.write(page, usage, &mut first);
    let rest = stream::try_unfold(more.then_some(exporter), |exporter| async move {
        let Some(mut exporter) = exporter else { return Ok(None) };
        let (page, usage) = exporter.page().await.map_err(|error| {
            tracing::warn!(error = error_chain(&error), lines = exporter.count, "an export broke off");
            io::Error::other("the export broke off")
        })?;
        let mut lines = Vec::new();
        let more = exporter.write(page, usage, &mut lines);
        Ok(Some((Bytes::from(lines), more.then_some(exporter))))
    });
    let body = stream::once(async move { Ok::<_, io::Error>(Bytes::from(first)) }).chain(rest);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, NDJSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let name = HeaderValue::from_static("attachment; filename=\"memories.ndjson\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    Ok(response)
}

impl Exporter {
    async fn page(&self) -> Result<(Vec<Memory>, Usage), StoreError> {
        let mut tx = self.api.store.begin(&self.caller, Access::Read).await?;
        let usage = tx.usage();
        tx.prefer_index_order().await?;
        let page = tx.export_page(self.after, PAGE).await?;
        tx.commit().await?;
        Ok((page, usage))
    }

    /// Writes a page, and the end after the last one. Whether there are more.
    fn write(&mut self, page: Vec<Memory>, usage: Usage, lines: &mut Vec<u8>) -> bool {
        let now = OffsetDateTime::now_utc();
        let more = page.len() as i64 == PAGE;
        for memory in page {
            self.after = memory.id;
            self.count += 1;
            write_line(lines, &line(memory, now));
        }
        if !more {
            write_line(lines, &End { end: true, count: self.count, change_seq: usage.change_seq });
        }
        more
    }
}

fn line(memory: Memory, now: OffsetDateTime) -> Line {
    let context = Standing::context_in(
        memory.score,
        memory.recall_count,
        memory.importance,
        memory.last_recalled_at.unwrap_or(memory.created_at),
    );
    Line { context: rounded(context), memory: MemoryView::new(memory, None, now) }
}

fn write_line(lines: &mut Vec<u8>, line: &impl Serialize) {
    // Texts, numbers, times of the years 1 to 9998: they always serialise.
    if serde_json::to_writer(&mut *lines, line).is_ok() {
        lines.push(b'\n');
    }
}
