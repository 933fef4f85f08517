//! Numbers: the value nearest to the text, whichever way it is found.

use axon::{DataType, Tensor};
use half::{bf16, f16};

use super::mutation::Random;
use super::{request, tensor};

fn read(datatype: DataType, numbers: &[String]) -> Tensor {
    let (count, data) = (numbers.len(), numbers.join(","));
    tensor(&request(&format!(r#""name":"a","datatype":"{datatype}","shape":[{count}],"data":[{data}]"#)))
}

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e5",
        "1",
        "-1",
        "1e22",
        "1e23",
        "1e-22",
        "123456789012345678901234567890",
    ]
    .map(str::to_owned)
    .into();
    // Halves between neighbours, and texts just beside them: where a second rounding would show.
    for bits in [0x3f80_0000_u32, 0x3f80_0001, 0x4b7f_ffff, 0x0080_0000, 0x7f00_0001] {
        let (low, high) = (f32::from_bits(bits), f32::from_bits(bits + 1));
        let half = f64::midpoint(f64::from(low), f64::from(high));
        for beside in [half, half.next_up(), half.next_down()] {
            texts.extend([format!("{beside}"), format!("{beside:e}"), format!("{beside}0000000001")]);
        }
    }
    texts.retain(|text| text.contains('.') || text.len() < 32);
    let mut random = Random::new(11);
    for _ in 0..20_000 {
        let single = f32::from_bits(random.half_word());
        if single.is_finite() && single.abs() < 1e30 {
            texts.extend([single.to_string(), format!("{single:e}"), f64::from(single).to_string()]);
        }
        let (digits, power) = (random.word() >> (random.word() % 64), random.word() % 48);
        texts.push(format!("{digits}e{}", i64::try_from(power).unwrap() - 30));
        texts.push(format!("-{digits}.{}", random.word() >> (random.word() % 64)));
    }
    texts
}

#[test]
fn decimals_are_rounded_once() {
    let texts = texts();
    let singles = read(DataType::Fp32, &texts);
    let doubles = read(DataType::Fp64, &texts);
    for (index, text) in texts.iter().enumerate() {
        let single = singles.as_slice::<f32>().unwrap()[index];
        assert_eq!(single.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{text}");
        let double = doubles.as_slice::<f64>().unwrap()[index];
        assert_eq!(double.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
    }
}

#[test]
fn halves_read_back_from_any_text_between_their_neighbours() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).collect();
    let texts: Vec<String> = halves.iter().map(|half| half.to_f64().to_string()).collect();
    let back = read(DataType::Fp16, &texts);
    let bits = |halves: &[f16]| halves.iter().map(|half| half.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(back.as_slice::<f16>().unwrap()), bits(&halves));
    // Just above and just below the middle of two neighbours, further out than a binary32 sees.
    for pair in (0..0x7bff_u16).step_by(97) {
        let (low, high) = (f16::from_bits(pair), f16::from_bits(pair + 1));
        let middle = f64::midpoint(low.to_f64(), high.to_f64());
        let texts = [middle.next_up(), middle.next_down()].map(|value| value.to_string());
        let back = read(DataType::Fp16, &texts);
        assert_eq!(bits(back.as_slice::<f16>().unwrap()), bits(&[high, low]), "{texts:?}");
    }
    let texts = [1.003_906_25_f64.next_up(), 1.003_906_25, 1.003_906_25_f64.next_down()]
        .map(|value| value.to_string());
    let back = read(DataType::Bf16, &texts);
    let expected = [0x3f81, 0x3f80, 0x3f80].map(bf16::from_bits);
    assert_eq!(back.as_slice::<bf16>(), Some(&expected[..]));
}

#[test]
fn integers_are_exact_to_their_ends() {
    let check = |datatype, numbers: &[&str], expected: &[u8]| {
        let numbers: Vec<String> = numbers.iter().map(|&number| number.to_owned()).collect();
        assert_eq!(&read(datatype, &numbers).memory()[..], expected, "{numbers:?}");
    };
    check(DataType::Uint64, &["18446744073709551615"], &[0xff; 8]);
    check(
        DataType::Uint64,
        &["-0", "10000000000000000000"],
        &[[0; 8], 10_u64.pow(19).to_le_bytes()].concat(),
    );
    check(DataType::Int64, &["-9223372036854775808"], &i64::MIN.to_le_bytes());
    check(DataType::Int64, &["9223372036854775807"], &i64::MAX.to_le_bytes());
    check(DataType::Int8, &["-128", "127", "-0"], &[0x80, 0x7f, 0]);
    check(DataType::Uint8, &["0", "255"], &[0, 255]);
}
