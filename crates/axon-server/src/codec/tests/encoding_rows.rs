//! B-54 to B-56: content encodings.

use std::io::Write as _;

use axon::ErrorKind;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::assert_error;
use super::mutation::Random;
use crate::codec::decode_content;

const FIELD: &str = "Content-Encoding";
const LIMIT: usize = 64 << 20;

fn encode(encoding: &str, plain: &[u8]) -> Vec<u8> {
    if encoding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        return encoder.finish().unwrap();
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn check(body: &[u8], encoding: &str, kind: ErrorKind, field: &str, text: &str) {
    let error = decode_content(Bytes::copy_from_slice(body), encoding, LIMIT).unwrap_err();
    assert_error(&error, kind, field, text, encoding);
}

#[test]
fn what_was_encoded_reads_back() {
    let mut random = Random::new(7);
    let noise: Vec<u8> = (0..100_000).map(|_| random.byte()).collect();
    for plain in [&b""[..], b"{}", &b"abc".repeat(10_000), &noise] {
        for encoding in ["gzip", "deflate"] {
            let decoded = decode_content(encode(encoding, plain).into(), encoding, LIMIT).unwrap();
            assert_eq!(&decoded[..], plain);
            let exact = decode_content(encode(encoding, plain).into(), encoding, plain.len());
            assert_eq!(exact.unwrap().len(), plain.len());
        }
    }
    let mut named = flate2::GzBuilder::new().filename("a.json").comment("b").extra(vec![1, 2, 3]);
    named = named.mtime(1);
    let mut encoder = named.write(Vec::new(), Compression::fast());
    encoder.write_all(b"{}").unwrap();
    let body = encoder.finish().unwrap();
    for length in 0..body.len() {
        check(&body[..length], "gzip", ErrorKind::InvalidRequest, FIELD, "invalid gzip at byte");
    }
    assert_eq!(&decode_content(body.into(), "gzip", LIMIT).unwrap()[..], b"{}");
}

#[test]
fn b54_garbage_cuts_and_trailing_bytes_are_found() {
    let plain = b"{\"inputs\":[1,2,3,4,5,6]}".repeat(50);
    for encoding in ["gzip", "deflate"] {
        let invalid = |body: &[u8], text: &str| check(body, encoding, ErrorKind::InvalidRequest, FIELD, text);
        // A zlib header is two bytes, looked at together.
        let at = if encoding == "gzip" { 0 } else { 2 };
        invalid(b"garbage, not a stream", &format!("invalid {encoding} at byte {at}"));
        invalid(b"", &format!("invalid {encoding} at byte 0"));
        let body = encode(encoding, &plain);
        for length in 0..body.len() {
            invalid(&body[..length], "got the end of the body");
        }
        invalid(
            &[&body[..], b"xx"].concat(),
            &format!("at byte {}: expected the end of the body", body.len()),
        );
        invalid(&[&body[..], &body[..]].concat(), "expected the end of the body");
        // Each checksum is looked at, and each length.
        for from_end in 1..=4 {
            let mut broken = body.clone();
            let at = broken.len() - from_end;
            broken[at] ^= 1;
            invalid(&broken, &format!("invalid {encoding} at byte"));
        }
    }
    let mut broken = encode("gzip", &plain);
    let at = broken.len() - 6;
    broken[at] ^= 1;
    check(&broken, "gzip", ErrorKind::InvalidRequest, FIELD, "expected the checksum");
    // `deflate` is a zlib stream, as RFC 9110 says, not a bare one.
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
    bare.write_all(&plain).unwrap();
    check(&bare.finish().unwrap(), "deflate", ErrorKind::InvalidRequest, FIELD, "invalid deflate");
}

#[test]
fn b55_other_encodings_are_named() {
    for encoding in ["br", "gzip, gzip, gzip", "zstd", "", "GZIP"] {
        check(b"{}", encoding, ErrorKind::UnsupportedMedia, FIELD, "expected one of gzip, deflate, got");
    }
}

/// A stream of `count` times 1 MiB of zeros, without its end.
fn bomb(encoding: &str, count: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(1 << 20);
    let mut compress = flate2::Compress::new(Compression::best(), false);
    compress.compress_vec(&vec![0; 1 << 20], &mut block, flate2::FlushCompress::Full).unwrap();
    let header: &[u8] =
        if encoding == "gzip" { &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff] } else { &[0x78, 0xda] };
    [header, &block.repeat(count)].concat()
}

#[test]
fn b56_bombs_are_stopped() {
    for encoding in ["gzip", "deflate"] {
        let bomb = bomb(encoding, 200);
        assert!((190 << 10..210 << 10).contains(&bomb.len()));
        check(&bomb, encoding, ErrorKind::RequestTooLarge, "body", "ratio > 100");
        let small = encode(encoding, &vec![0; 1 << 20]);
        assert_eq!(decode_content(small.into(), encoding, LIMIT).unwrap().len(), 1 << 20);
        let larger = encode(encoding, &vec![0; (1 << 20) + 1]);
        check(&larger, encoding, ErrorKind::RequestTooLarge, "body", "ratio > 100");
        let error = decode_content(encode(encoding, &[7; 1001]).into(), encoding, 1000).unwrap_err();
        assert_error(&error, ErrorKind::RequestTooLarge, "body", "decoded size > 1000", encoding);
        assert!(decode_content(encode(encoding, b"x").into(), encoding, 0).is_err());
    }
}

#[test]
fn memory_grows_with_what_is_decoded() {
    let decoded = decode_content(encode("gzip", b"{}").into(), "gzip", LIMIT).unwrap();
    let vector: Vec<u8> = decoded.into();
    assert!(vector.capacity() <= 8 << 10);
}

#[test]
fn broken_streams_never_pass_for_others() {
    let mut random = Random::new(9);
    let plain =
        br#"{"inputs":[{"name":"a","datatype":"FP32","shape":[4],"data":[0.1,0.2,0.3,0.4]}]}"#.repeat(3);
    for encoding in ["gzip", "deflate"] {
        let body = encode(encoding, &plain);
        for _ in 0..2_000 {
            let mut broken = body.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(broken.len());
                broken[at] ^= 1 << random.below(8);
            }
            // Some bits of a gzip header mean nothing.
            if let Ok(decoded) = decode_content(broken.into(), encoding, LIMIT) {
                assert_eq!(&decoded[..], &plain);
            }
        }
    }
}
