//! Which form a scraper asks for.
//!
//! **Source:** Prometheus, "Scrape protocol content negotiation"; RFC 9110, section 12.5.1.

use hyper::header::HeaderValue;

/// A form in which metrics are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// Prometheus' text.
    #[default]
    Text,
    /// OpenMetrics: text with exemplars.
    OpenMetrics,
    /// Prometheus' protobuf: native histograms too.
    Protobuf,
}

impl Form {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Text, Self::OpenMetrics, Self::Protobuf];

    /// What the body is called.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        })
    }
}

/// The form that a scraper likes best, by the values of its `Accept` headers: the highest weight wins, the first of equal
/// ones. What is not spoken does not count, and where nothing is left it is text.
pub(super) fn negotiate<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Form {
    let (mut best, mut best_weight) = (Form::Text, 0.0);
    for one in values.into_iter().flat_map(|value| value.split(|&byte| byte == b',')) {
        let Some((form, weight)) = str::from_utf8(one).ok().and_then(parse) else { continue };
        if weight > best_weight {
            (best, best_weight) = (form, weight);
        }
    }
    best
}

/// Reads one media range; `None` for one that is not spoken.
fn parse(text: &str) -> Option<(Form, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let mut weight = 1.0;
    let (mut version, mut proto, mut encoding) = (None, None, None);
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => {
                weight = value.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            }
            "version" => version = Some(unquoted(value)?),
            "proto" => proto = Some(unquoted(value)?),
            "encoding" => encoding = Some(unquoted(value)?),
            _ => {}
        }
    }
    let form = match media.as_str() {
        "*/*" | "text/*" => Form::Text,
        "text/plain" if matches!(version, None | Some("0.0.4")) => Form::Text,
        "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => Form::OpenMetrics,
        "application/vnd.google.protobuf"
            if proto == Some("io.prometheus.client.MetricFamily")
                && matches!(encoding, None | Some("delimited")) =>
        {
            Form::Protobuf
        }
        _ => return None,
    };
    Some((form, weight))
}

/// A parameter's value, which may stand in quotes; `None` where only one of them is there. No value that is known has
/// anything in it that would have to be escaped.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_it_likes_best() {
        let check = |accept: &[&str], expected| {
            assert_eq!(negotiate(accept.iter().map(|value| value.as_bytes())), expected, "{accept:?}");
        };
        check(&[], Form::Text);
        check(&["*/*"], Form::Text);
        check(&["application/json"], Form::Text);
        check(&["text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"], Form::Text);
        // Prometheus 3, by default and when it asks for native histograms.
        check(
            &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
               application/openmetrics-text;version=0.0.1;q=0.5,\
               text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            Form::OpenMetrics,
        );
        check(
            &[
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
               application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1",
            ],
            Form::Protobuf,
        );
        check(&["application/vnd.google.protobuf;proto=other.Message"], Form::Text);
        check(&["application/openmetrics-text; version=2.0.0"], Form::Text);
        check(&["text/plain;q=0.5", "application/openmetrics-text"], Form::OpenMetrics);
        check(&["application/openmetrics-text;version=\"1.0.0\""], Form::OpenMetrics);
        check(
            &["application/openmetrics-text; version = \"1.0.0\" ; q=0.5, text/plain;q=0.4"],
            Form::OpenMetrics,
        );
        check(&["text/plain; version=\"0.0.4\", application/openmetrics-text;q=0.9"], Form::Text);
        check(
            &[
                "application/vnd.google.protobuf;proto=\"io.prometheus.client.MetricFamily\";encoding=\"delimited\"",
            ],
            Form::Protobuf,
        );
        check(&["application/openmetrics-text;version=\"2.0.0\""], Form::Text);
        check(&["application/openmetrics-text;version=\"1.0.0"], Form::Text);
        check(&["application/openmetrics-text;version=\""], Form::Text);
        check(&["application/openmetrics-text;q=0"], Form::Text);
        check(&["application/openmetrics-text;q=nan"], Form::Text);
    }
}
