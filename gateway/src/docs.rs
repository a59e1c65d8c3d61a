//! The API's description: `GET /openapi.json`, and the page `GET /docs` that shows it and lets one try it. Nothing of it
//! is loaded from elsewhere, and the page may load nothing from elsewhere.

use std::{
    io::{Cursor, Read, Write},
    sync::LazyLock,
};

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, Crc, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
        VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

use crate::{encoding, error::Error};

/// As the code describes it: `tests/data-plane` compares the two, and writes this one.
const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// Relative addresses, so that it also works under a prefix that a proxy takes away.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stellar-memory: the API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<noscript>This page needs JavaScript. The description itself is <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"#;

const START: &str =
    "SwaggerUIBundle({ url: \"openapi.json\", dom_id: \"#api\", deepLinking: true, validatorUrl: null });\n";

/// Styles are set by script, which `style-src` lets pass; pictures are in the style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page needs of Swagger UI, and as what.
const FILES: [(&str, &str); 3] = [
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
];

struct File {
    name: &'static str,
    media_type: &'static str,
    plain: Bytes,
    /// As the archive has it, so that it costs nothing to send it so.
    gzip: Option<Bytes>,
    tag: String,
}

/// The description, packed once for all who ask.
static DESCRIPTION: LazyLock<File> = LazyLock::new(|| {
    let mut packing = GzEncoder::new(Vec::new(), Compression::best());
    let packed = packing.write_all(DOCUMENT.as_bytes()).and_then(|()| packing.finish());
    let mut sum = Crc::new();
    sum.update(DOCUMENT.as_bytes());
    File {
        name: "openapi.json",
        media_type: "application/json",
        plain: Bytes::from_static(DOCUMENT.as_bytes()),
        // Memory takes all that is written to it.
        gzip: packed.ok().map(Bytes::from),
        tag: format!("\"{:08x}\"", sum.sum()),
    }
});

/// The files of Swagger UI, unpacked when the page is asked for the first time.
static UNPACKED: LazyLock<Vec<File>> =
    LazyLock::new(|| FILES.iter().filter_map(|(name, media_type)| unpack(name, media_type)).collect());

/// `None`: the archive has no such file, which a test excludes.
fn unpack(name: &'static str, media_type: &'static str) -> Option<File> {
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED)).ok()?;
    let ending = format!("/dist/{name}");
    let mut paths = archive.file_names().filter_map(Result::ok);
    let path = paths.find(|path| path.ends_with(&ending) && path.matches('/').count() == 2)?.into_owned();
    drop(paths);
    let mut entry = archive.by_name(&path).ok()?;
    let mut plain = Vec::new();
    entry.read_to_end(&mut plain).ok()?;
    let (crc, size) = (entry.crc32(), plain.len() as u32);
    let start = usize::try_from(entry.data_start()?).ok()?;
    let packed = SWAGGER_UI_VENDORED.get(start..start + usize::try_from(entry.compressed_size()).ok()?)?;
    let gzip = (entry.compression() == zip::CompressionMethod::Deflated).then(|| {
        // RFC 1952 §2.3: a head without name and time, the same deflated bytes as in the archive, their CRC and size.
        let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        [&head[..], packed, &crc.to_le_bytes(), &size.to_le_bytes()].concat().into()
    });
    Some(File { name, media_type, plain: plain.into(), gzip, tag: format!("\"{crc:08x}\"") })
}

/// The description.
#[utoipa::path(get, path = "/openapi.json", tag = "service", operation_id = "openapi", security(()), responses(
    (status = 200, description = "This document", body = utoipa::openapi::Object, content_type = "application/json"),
    (status = 304, description = "It is the one of If-None-Match"),
))]
pub(crate) fn document(headers: &HeaderMap) -> Response<Body> {
    DESCRIPTION.answer(headers, "public, max-age=300, no-transform")
}

/// The page.
#[utoipa::path(get, path = "/docs", tag = "service", operation_id = "docs", security(()), responses(
    (status = 200, description = "This document, to read and to try", body = String, content_type = "text/html"),
))]
pub(crate) fn page() -> Response<Body> {
    answer("text/html; charset=utf-8", Body::from(PAGE), "public, max-age=300")
}

/// A file of the page.
#[utoipa::path(get, path = "/docs/{file}", tag = "service", operation_id = "docs_file", security(()),
    params(("file" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "A script, a style sheet or an icon", body = String, content_type = "text/javascript"),
        (status = 304, description = "It is the one of If-None-Match"),
    ),
    extensions(("x-problems" = json!(["not-found"]))),
)]
pub(crate) fn file(path: &str, headers: &HeaderMap) -> Response<Body> {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name == "start.js" {
        return answer("text/javascript; charset=utf-8", Body::from(START), "public, max-age=300");
    }
    match UNPACKED.iter().find(|file| file.name == name) {
        Some(file) => file.answer(headers, "public, max-age=86400, no-transform"),
        None => Error::NoRoute.into_response(),
    }
}

impl File {
    /// `kept` has `no-transform`: unpacked it is not packed again for each client.
    fn answer(&self, headers: &HeaderMap, kept: &'static str) -> Response<Body> {
        let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let mut response = if known.is_some_and(|tags| tags.contains(&self.tag)) {
            let mut response = answer(self.media_type, Body::empty(), kept);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            match &self.gzip {
                Some(gzip) if encoding::takes_gzip(headers) => {
                    let mut response = answer(self.media_type, Body::from(gzip.clone()), kept);
                    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    response
                }
                _ => answer(self.media_type, Body::from(self.plain.clone()), kept),
            }
        };
        if let Ok(tag) = HeaderValue::from_str(&format!("W/{}", self.tag)) {
            response.headers_mut().insert(ETAG, tag);
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

fn answer(media_type: &'static str, body: Body, kept: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let fields: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, kept),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    response.headers_mut().extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_there() {
        assert_eq!(UNPACKED.len(), FILES.len());
        for attribute in PAGE.split(['"', '\'']).filter_map(|text| text.strip_prefix("docs/")) {
            let response = file(&format!("/docs/{attribute}"), &HeaderMap::new());
            assert_eq!(response.status(), 200, "{attribute}");
        }
        assert_eq!(file("/docs/index.html", &HeaderMap::new()).status(), 404);
        assert!(PAGE.contains("openapi.json") && START.contains("openapi.json"));
    }

    #[test]
    fn the_page_holds_nothing_that_its_policy_forbids() {
        assert!(!POLICY.contains("unsafe") && !POLICY.contains('*'));
        assert!(
            !PAGE.contains("://") && !PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("onload")
        );
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script src=\"docs/").count());
    }
}
