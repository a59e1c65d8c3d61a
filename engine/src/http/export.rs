//! `GET /export`: all memories, as lines of JSON (NDJSON) that `POST /import` takes.
//!
//! The first line tells the format and where the change log stood, the last one how many memories came before it: where it
//! is missing, the export is not whole. Each page has its own transaction, so an export holds no snapshot, however slowly it
//! is read. What was there at the start and was not forgotten meanwhile is in it once, as it was when its page was read;
//! what changed since is told by the change log after the first line's `change_seq`.

use std::{io, vec};

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
/// Memories of a page.
const PAGE: i64 = 200;
/// Bytes of a page, about. What passes them ends it. An export that nobody reads holds one.
const PAGE_BYTES: usize = 256 * 1024;
/// Bytes of lines that are written at one time, and what passes them.
const CHUNK_BYTES: usize = 64 * 1024;

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
    progress: Progress,
}

/// What is read and not yet written, and how far that is.
struct Progress {
    /// What is left of the page.
    page: vec::IntoIter<Memory>,
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
    let progress = Progress { page: Vec::new().into_iter(), after: Uuid::nil(), count: 0 };
    let mut exporter = Exporter { api, caller, progress };
    // What keeps it from beginning is told as of any other request.
    let usage = exporter.read_page().await?;
    let head = Head { format: FORMAT, version: VERSION, change_seq: usage.change_seq, total: usage.memory_count };
    let mut first = Vec::new();
    write_line(&mut first, &head);
    let rest = stream::try_unfold(Some(exporter), |exporter| async move {
        let Some(mut exporter) = exporter else { return Ok(None) };
        let (lines, more) = exporter.chunk().await.map_err(|error| {
            tracing::warn!(error = error_chain(&error), lines = exporter.progress.count, "an export broke off");
            io::Error::other("the export broke off")
        })?;
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
    async fn read_page(&mut self) -> Result<Usage, StoreError> {
        let mut tx = self.api.store.begin(&self.caller, Access::Read).await?;
        let usage = tx.usage();
        tx.prefer_index_order().await?;
        self.progress.page = tx.export_page(self.progress.after, PAGE, PAGE_BYTES).await?.into_iter();
        tx.commit().await?;
        Ok(usage)
    }

    /// Returns the next lines, and true if there are more.
    async fn chunk(&mut self) -> Result<(Vec<u8>, bool), StoreError> {
        let lines = self.progress.chunk(OffsetDateTime::now_utc());
        if !lines.is_empty() {
            return Ok((lines, true));
        }
        let usage = self.read_page().await?;
        let mut lines = self.progress.chunk(OffsetDateTime::now_utc());
        let more = !lines.is_empty();
        if !more {
            write_line(&mut lines, &End { end: true, count: self.progress.count, change_seq: usage.change_seq });
        }
        Ok((lines, more))
    }
}

impl Progress {
    /// Writes what is read, up to a chunk. Nothing: the next page is to be read.
    fn chunk(&mut self, now: OffsetDateTime) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < CHUNK_BYTES {
            let Some(memory) = self.page.next() else { break };
            self.after = memory.id;
            self.count += 1;
            write_line(&mut lines, &line(memory, now));
        }
        lines
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sample;

    #[test]
    fn page_is_written_in_chunks_each_line_once() {
        let page: Vec<Memory> = (1..=20).map(|n| sample(n, &"x".repeat(10_000))).collect();
        let mut progress = Progress { page: page.into_iter(), after: Uuid::nil(), count: 0 };
        let mut chunks = Vec::new();
        loop {
            let chunk = progress.chunk(OffsetDateTime::UNIX_EPOCH);
            if chunk.is_empty() {
                break;
            }
            assert!(chunk.len() < CHUNK_BYTES + 11_000, "{}", chunk.len());
            chunks.push(chunk);
        }
        assert!(chunks.len() > 2, "{}", chunks.len());
        assert_eq!((progress.count, progress.after), (20, Uuid::from_u128(20)));
        assert_eq!(chunks.concat().split(|byte| *byte == b'\n').count(), 21, "an end after each line");
    }
}
