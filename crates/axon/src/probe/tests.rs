//! The probe with made-up models, whose functions are known.

use synapse::DataType;

use super::*;
use crate::signature::TensorSpec;

/// From the values of `x` [rows, 3] and the rows, the values of `y`.
type Function = fn(&[f32], usize) -> Vec<f32>;

struct Model(Function);

impl Executor for Model {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let rows = inputs[0].shape()[0];
        let values = (self.0)(inputs[0].as_slice().unwrap(), rows);
        Ok(vec![Tensor::from_vec(&[values.len() / 3, 3], values).unwrap()])
    }
}

fn signature(first: &Dimension) -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape: Some(vec![first.clone(), Dimension::Fixed(3)]),
    };
    Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

fn find(model: Function) -> Findings {
    find_for(model, Batching::Auto)
}

fn find_for(model: Function, batching: Batching) -> Findings {
    probe(&signature(&Dimension::Dynamic(Some("batch".to_owned()))), &mut Model(model), batching)
}

#[test]
fn an_owner_may_insist_on_rows_that_influence_each_other_and_not_on_what_cannot_be_run() {
    let mix: Function = |values, _| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        values.iter().map(|value| value - mean).collect()
    };
    for batching in [Batching::Auto, Batching::Off] {
        assert!(!find_for(mix, batching).batchable.shares_runs(), "{batching}");
    }
    let insisted = find_for(mix, Batching::Always);
    let reason = "rows influence each other in output `y`".to_owned();
    assert_eq!(insisted.batchable, Batchable::Insisted(reason));
    assert!(insisted.curve.len() > 1);
    let independent: Function = |values, _| values.to_vec();
    assert_eq!(find_for(independent, Batching::Always).batchable, Batchable::Yes { bitwise: true });
    let one_row: Function = |_, _| vec![0.0; 3];
    assert!(!find_for(one_row, Batching::Always).batchable.shares_runs());
    let fixed = probe(&signature(&Dimension::Fixed(1)), &mut Model(independent), Batching::Always);
    assert!(!fixed.batchable.shares_runs());
}

#[test]
fn independent_rows_are_batchable() {
    let findings = find(|values, _| values.iter().map(|value| value * 2.0).collect());
    assert_eq!(findings.batchable, Batchable::Yes { bitwise: true });
    assert_eq!(findings.deterministic, Some(true));
    assert_eq!(findings.curve.first().map(|point| point.rows), Some(1));
}

#[test]
fn rows_that_differ_by_rounding_are_batchable_within_tolerance() {
    let findings =
        find(|values, rows| values.iter().map(|value| value * (1.0 + rows as f32 * 1e-6)).collect());
    assert_eq!(findings.batchable, Batchable::Yes { bitwise: false });
}

#[test]
fn rows_that_influence_each_other_are_not_batchable() {
    let mixing: [Function; 5] = [
        |values, _| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            values.iter().map(|value| value - mean).collect()
        },
        // A later row depends on an earlier one only.
        |values, _| (0..values.len()).map(|i| values[i] + if i < 3 { 0.0 } else { values[i - 3] }).collect(),
        // Rows come out in reverse.
        |values, _| values.chunks(3).rev().flatten().copied().collect(),
        // Only large batches mix.
        |values, rows| {
            let mean = if rows > 8 { values.iter().sum::<f32>() / values.len() as f32 } else { 0.0 };
            values.iter().map(|value| value - mean).collect()
        },
        // A large neighbour takes the precision of a small one.
        |values, _| {
            let scale =
                values.iter().filter(|value| !value.is_nan()).fold(0.0, |a: f32, b| a.max(b.abs())) / 127.0;
            values.iter().map(|value| (value / scale).round() * scale).collect()
        },
    ];
    for model in mixing {
        assert_eq!(
            find(model).batchable,
            Batchable::No("rows influence each other in output `y`".to_owned())
        );
    }
}

#[test]
fn a_fixed_batch_is_not_batchable() {
    let findings =
        probe(&signature(&Dimension::Fixed(1)), &mut Model(|values, _| values.to_vec()), Batching::Auto);
    assert_eq!(findings.batchable, Batchable::No("dimension 0 of input `x` is fixed at 1".to_owned()));
    assert_eq!(findings.curve.len(), 1);
}

#[test]
fn outputs_without_a_row_each_are_not_batchable() {
    let findings = find(|_, _| vec![0.0; 3]);
    let reason = "output `y` does not have one row for each input row";
    assert_eq!(findings.batchable, Batchable::No(reason.to_owned()));
}

/// Once, the budget of slow single rows was given to every size: a model of 6 ms a row took 1.9 s to load.
#[test]
fn large_batches_do_not_lengthen_the_measurement() {
    let findings = find(|values, rows| {
        std::thread::sleep(Duration::from_millis(6) * u32::try_from(rows).unwrap());
        values.to_vec()
    });
    assert_eq!(findings.batchable, Batchable::Yes { bitwise: true });
    let rows: Vec<_> = findings.curve.iter().map(|point| point.rows).collect();
    assert!(rows.last().is_some_and(|&rows| rows <= 8), "{rows:?}");
}

#[test]
fn the_knee_is_where_growing_stops_paying() {
    let check = |durations_us: &[u64], expected| {
        let curve = durations_us.iter().enumerate().map(|(exponent, &micros)| CurvePoint {
            rows: 1 << exponent,
            duration: Duration::from_micros(micros),
        });
        let batchable = Batchable::Yes { bitwise: true };
        let findings = Findings { curve: curve.collect(), ..Findings::untried(batchable) };
        assert_eq!(findings.knee(), expected, "{durations_us:?}");
    };
    check(&[], 1);
    check(&[100], 1);
    check(&[100, 200, 400], 1);
    check(&[100, 199, 400], 1);
    check(&[100, 110, 130, 200], 8);
    check(&[100, 110, 120, 239, 480], 4);
}
