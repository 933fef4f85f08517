//! The question that is asked of a model in this process, and its right answer.

use std::path::Path;

use axon::Tensor;

use crate::window::Result;

/// One row of FP32 values in, one row out.
pub struct Question {
    input: Vec<f32>,
    expected: Vec<f32>,
}

impl Question {
    /// Reads both rows from files of little-endian values.
    pub fn read(input: &Path, expected: &Path) -> Result<Self> {
        Ok(Self { input: read_values(input)?, expected: read_values(expected)? })
    }

    /// The row, `rows` times.
    pub fn input(&self, rows: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(&[rows, self.input.len()], self.input.repeat(rows))?)
    }

    /// Checks every row of an answer. Runs of several rows may round in another order.
    pub fn check(&self, answer: &Tensor) -> Result<()> {
        let answer = answer.clone().aligned();
        let values = answer.as_slice::<f32>().ok_or("the answer is not FP32")?;
        let scale = self.expected.iter().fold(0.0_f32, |scale, value| scale.max(value.abs()));
        let is_right = |row: &[f32]| {
            row.len() == self.expected.len()
                && row.iter().zip(&self.expected).all(|(got, wanted)| (got - wanted).abs() <= 1e-5 * scale)
        };
        if values.is_empty() || !values.chunks(self.expected.len()).all(is_right) {
            return Err(format!("a wrong answer: {answer:?}").into());
        }
        Ok(())
    }
}

fn read_values(path: &Path) -> Result<Vec<f32>> {
    let (values, rest) = {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (values, rest) = bytes.as_chunks::<4>();
        (values.iter().map(|&value| f32::from_le_bytes(value)).collect(), rest.len())
    };
    if rest == 0 { Ok(values) } else { Err(format!("{}: not whole FP32 values", path.display()).into()) }
}
