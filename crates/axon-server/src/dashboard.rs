//! The page that shows how the server and its models are, and lets one try a model.
//!
//! A few files in the binary: nothing is downloaded from elsewhere and nothing is built. It is served under the policy of
//! [`crate::page`], and its links are relative, so that it works behind a proxy's prefix too.

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file of the page by its path.
macro_rules! files {
    ($($path:literal: $kind:ident $file:literal,)*) => {
        &[$(($path, $kind, include_bytes!(concat!("dashboard/", $file)))),*]
    };
}

const FILES: &[(&str, &str, &[u8])] = files! {
    "/": HTML "index.html",
    "/dashboard": HTML "index.html",
    "/dashboard/colours.css": CSS "colours.css",
    "/dashboard/style.css": CSS "style.css",
    "/dashboard/main.js": SCRIPT "main.js",
    "/dashboard/api.js": SCRIPT "api.js",
    "/dashboard/control.js": SCRIPT "control.js",
    "/dashboard/curve.js": SCRIPT "curve.js",
    "/dashboard/dom.js": SCRIPT "dom.js",
    "/dashboard/format.js": SCRIPT "format.js",
    "/dashboard/heatmap.js": SCRIPT "heatmap.js",
    "/dashboard/images.js": SCRIPT "images.js",
    "/dashboard/model.js": SCRIPT "model.js",
    "/dashboard/models.js": SCRIPT "models.js",
    "/dashboard/residency.js": SCRIPT "residency.js",
    "/dashboard/shelf.js": SCRIPT "shelf.js",
    "/dashboard/tensors.js": SCRIPT "tensors.js",
    "/dashboard/trial.js": SCRIPT "trial.js",
};

/// The content type and the bytes of the asset at `path`.
#[must_use]
pub fn asset(path: &str) -> Option<(&'static str, &'static [u8])> {
    FILES.iter().find(|(at, ..)| *at == path).map(|&(_, kind, bytes)| (kind, bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(path: &str) -> &'static str {
        str::from_utf8(asset(path).unwrap().1).unwrap()
    }

    fn scripts() -> impl Iterator<Item = &'static str> {
        FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT).map(|&(path, ..)| path)
    }

    #[test]
    fn every_file_is_named_by_another_and_every_name_is_a_file() {
        let mut named = BTreeSet::from(["/".to_owned(), "/dashboard".to_owned()]);
        let linked = text("/").split('"').filter(|text| text.starts_with("dashboard/"));
        named.extend(linked.map(|path| format!("/{path}")));
        for path in scripts() {
            let imports = text(path).split('"').filter_map(|text| text.strip_prefix("./"));
            named.extend(imports.map(|name| format!("/dashboard/{name}")));
        }
        let there: BTreeSet<String> = FILES.iter().map(|(path, ..)| (*path).to_owned()).collect();
        assert_eq!(named, there);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dashboard");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), FILES.len() - 1, "a file is not served");
    }

    #[test]
    fn a_colour_has_a_name_and_stands_in_one_file_for_both_pages() {
        let colours = text("/dashboard/colours.css");
        assert!(colours.contains("prefers-color-scheme: dark"));
        let docs = |path| str::from_utf8(crate::page::asset(path).unwrap().1).unwrap();
        for (page, sheet) in
            [(text("/"), text("/dashboard/style.css")), (docs("/docs"), docs("/docs/page.css"))]
        {
            assert!(page.contains("href=\"dashboard/colours.css\""));
            assert!(
                !sheet.contains('#') && !sheet.contains("prefers-color-scheme"),
                "a colour without a name"
            );
            for name in sheet.split("var(").skip(1).filter_map(|rest| rest.split(')').next()) {
                assert_eq!(
                    colours.matches(&format!("{name}:")).count(),
                    2,
                    "{name}: once in the light, once in the dark"
                );
            }
        }
    }

    #[test]
    fn the_page_keeps_its_policy_and_nothing_becomes_markup() {
        let page = text("/");
        // Inline scripts, styles and handlers would be blocked.
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains(" on"), "{page}");
        assert_eq!(page.matches("<script").count(), page.matches("<script src=").count());
        let words = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
        ];
        for path in scripts() {
            assert!(words.iter().all(|word| !text(path).contains(word)), "{path}");
            // The one address elsewhere is the name of a language, which nobody asks for.
            let code = text(path).replace("http://www.w3.org/2000/svg", "");
            assert!(!code.contains("http:") && !code.contains("https:") && !code.contains("//www"), "{path}");
        }
    }
}
