use std::path::PathBuf;

use super::*;

fn found(version: u64) -> Found {
    Found { version, ..Found::file("m".to_owned(), PathBuf::from("model.onnx")) }
}

fn fails(version: u64) -> Tried {
    Tried { version, outcome: Err(Error::new(ErrorKind::InvalidModel, "broken")) }
}

#[test]
fn models_are_bounded_and_unloaded_ones_make_room() {
    let table = Table::default();
    for number in 0..MAX_MODELS {
        table.begin(&number.to_string(), &[found(1)]).unwrap();
    }
    let refused = table.begin("m", &[found(1)]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(table.begin("7", &[found(2)]).is_ok(), "it is one of them");
    table.retire("8").unwrap();
    assert!(table.begin("m", &[found(1)]).is_ok());
    assert_eq!(table.lease("8", None).err().unwrap().kind(), ErrorKind::ModelNotFound, "forgotten");
}

#[test]
fn versions_that_are_past_are_forgotten_from_the_oldest() {
    let table = Table::default();
    let last = MAX_PAST_VERSIONS as u64 + 10;
    for version in 1..=last {
        table.begin("m", &[found(version)]).unwrap();
        assert_eq!(table.publish("m", vec![fails(version)]).len(), 1);
    }
    let versions: Vec<u64> = table.entries().iter().map(|entry| entry.version).collect();
    assert_eq!(versions, (10..=last).collect::<Vec<_>>());
    assert_eq!(table.unready(), [("m".to_owned(), last, false)], "only the last is meant to be loaded");
}

#[test]
fn what_is_not_ready_says_in_what_state_it_is() {
    let table = Table::default();
    let error = |version| table.lease("m", version).err().unwrap();
    assert_eq!(error(None).kind(), ErrorKind::ModelNotFound);
    table.begin("m", &[found(1)]).unwrap();
    assert_eq!(error(Some(2)).field(), Some("model_version"));
    assert_eq!(error(Some(1)).message(), "model `m` version 1 is not ready: state LOADING");
    assert!(error(None).retry_after().is_some());
    table.publish("m", vec![fails(1)]);
    assert_eq!(error(None).message(), "model `m` version 1 is not ready: state UNAVAILABLE: broken");
    assert!(table.retire("m").unwrap().is_empty());
    assert_eq!(error(None).message(), "model `m` version 1 is not ready: state UNAVAILABLE: unloaded");
    assert!(error(None).retry_after().is_none());
}
