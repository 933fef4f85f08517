//! The page that shows the server's OpenAPI document, and lets one try what is in it.
//!
//! Three files in the binary, and the colours of [`crate::dashboard`]: nothing is downloaded from elsewhere and nothing is built. The page works under
//! [`CONTENT_SECURITY_POLICY`], and its links are relative, so that it works behind a proxy's prefix too.

/// The policy to serve every asset with: nothing but this server's own files and answers, in no one's frame.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The content type and the bytes of the asset at `path`.
#[must_use]
pub fn asset(path: &str) -> Option<(&'static str, &'static [u8])> {
    match path {
        "/docs" => Some(("text/html; charset=utf-8", include_bytes!("page/page.html"))),
        "/docs/page.css" => Some(("text/css; charset=utf-8", include_bytes!("page/page.css"))),
        "/docs/page.js" => Some(("text/javascript; charset=utf-8", include_bytes!("page/page.js"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        str::from_utf8(asset(path).unwrap().1).unwrap()
    }

    #[test]
    fn the_page_names_its_own_assets_and_nothing_elsewhere() {
        let page = text("/docs");
        for link in page.split(['"', '\'']).filter(|text| text.starts_with("docs/")) {
            assert!(asset(&format!("/{link}")).is_some(), "{link}");
        }
        assert_eq!(page.matches("docs/page.").count(), 2);
        for path in ["/docs", "/docs/page.css", "/docs/page.js"] {
            assert!(!text(path).contains("//www") && !text(path).contains("http"), "{path}");
        }
        assert_eq!(asset("/docs/"), None);
        assert_eq!(asset("/docs/page.html"), None);
    }

    #[test]
    fn the_page_keeps_its_policy() {
        let page = text("/docs");
        // Inline scripts, styles and handlers would be blocked.
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains(" on"), "{page}");
        assert_eq!(page.matches("<script").count(), page.matches("<script src=").count());
        // Text from the document and from answers must never become elements.
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!text("/docs/page.js").contains(word), "{word}");
        }
    }
}
