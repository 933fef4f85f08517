//! Builds a session and reads what it takes and gives.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use ort::AsPointer;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::sys;
use synapse::DataType;

use super::message;
use super::pools;
use super::run::check;
use crate::config::Device;
use crate::error::{Echo, Error, ErrorKind, Result};
use crate::signature::{Dimension, Signature, TensorSpec};

/// The longest name of an input or output, in bytes.
const MAX_NAME: usize = 256;

/// How a session is built.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Where it runs.
    pub device: Device,
    /// The threads of one run; 1 starts no thread.
    pub threads: usize,
    /// Whether ONNX Runtime keeps the memory of one run for the next. Off, memory does not grow with the largest
    /// shape ever seen, at 7 % more CPU (measured on a small BERT); on is right where shapes never change.
    pub arena: bool,
}

/// One loaded copy of a model. Any number of threads may run it at once on the CPU.
pub struct Session {
    pub(super) inner: ort::session::Session,
    pub(super) input_names: Vec<CString>,
    pub(super) output_names: Vec<CString>,
    signature: Signature,
}

impl Session {
    /// Loads the model file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when ONNX Runtime refuses the file, when an input or output is not a tensor of a
    /// type that the protocol has, or when the device's execution provider is not there.
    pub fn load(path: &Path, options: SessionOptions) -> Result<Arc<Self>> {
        let path = path.to_owned();
        pools::make(options.threads, move || Self::commit(&path, options, &Graph::AsExported))
    }

    /// Loads the model file at `path` and writes what was made of it to `graph`: the graph as it was optimised for this
    /// processor, and in the file `weights` beside it the large tensors, each at a whole page, and what the kernels
    /// have packed for themselves.
    ///
    /// # Errors
    /// As [`Session::load`], and when a file cannot be written.
    pub fn save(path: &Path, options: SessionOptions, graph: &Path, weights: &str) -> Result<Arc<Self>> {
        Self::commit(path, options, &Graph::Saved { graph, weights })
    }

    /// Loads what [`Session::save`] has written, with the same device, library and processor: nothing is left to
    /// optimise, and the tensors are mapped and not read.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn load_saved(graph: &Path, options: SessionOptions) -> Result<Arc<Self>> {
        let graph = graph.to_owned();
        pools::make(options.threads, move || Self::commit(&graph, options, &Graph::Optimised))
    }

    /// As [`Session::load_saved`], without packing the weights: the session is there at once, its runs take longer, and its
    /// answers may differ in their last bits.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn load_unpacked(graph: &Path, options: SessionOptions) -> Result<Arc<Self>> {
        let graph = graph.to_owned();
        pools::make(options.threads, move || Self::commit(&graph, options, &Graph::Unpacked))
    }

    fn commit(path: &Path, options: SessionOptions, graph: &Graph<'_>) -> Result<Arc<Self>> {
        let session = build(path, options, graph).map_err(|error| {
            let message = message::of(&error.to_string());
            Error::new(ErrorKind::InvalidModel, format!("ONNX Runtime cannot load the model: {message}"))
                .with_source(error)
        })?;
        let signature = Signature {
            inputs: read_specs(&session, Side::Input)?,
            outputs: read_specs(&session, Side::Output)?,
        };
        let names = |specs: &[TensorSpec]| {
            specs.iter().map(|spec| CString::new(spec.name.as_str())).collect::<Result<Vec<_>, _>>()
        };
        let input_names = names(&signature.inputs).map_err(Error::internal)?;
        let output_names = names(&signature.outputs).map_err(Error::internal)?;
        Ok(Arc::new(Self { inner: session, input_names, output_names, signature }))
    }

    /// What the model takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// What is done with the graph of a model file.
enum Graph<'a> {
    /// It is optimised.
    AsExported,
    /// It is optimised and written, with its tensors in a file of this name beside it.
    Saved { graph: &'a Path, weights: &'a str },
    /// It was optimised before.
    Optimised,
    /// It was optimised before, and weights are used as they lie in the file.
    Unpacked,
}

/// Tensors of fewer bytes stay in the graph's file. **Source:** ONNX Runtime's own default.
const LEAST_EXTERNAL_BYTES: &str = "1024";

fn build(path: &Path, options: SessionOptions, graph: &Graph<'_>) -> ort::Result<ort::session::Session> {
    let level = match graph {
        Graph::AsExported | Graph::Saved { .. } => GraphOptimizationLevel::All,
        Graph::Optimised | Graph::Unpacked => GraphOptimizationLevel::Disable,
    };
    let provider = match options.device {
        Device::Cpu => ep::CPU::default().with_arena_allocator(options.arena).build(),
        Device::Cuda => ep::CUDA::default().build(),
    };
    // Named explicitly and failing loudly: without either, ONNX Runtime picks a provider or falls back in silence.
    let builder = SessionBuilder::new()?
        .with_execution_providers([provider.error_on_failure()])?
        .with_optimization_level(level)?
        .with_intra_threads(options.threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(options.arena)?
        .with_log_level(LogLevel::Warning)?;
    let mut builder = match options.device {
        Device::Cpu => builder,
        Device::Cuda => builder.with_disable_cpu_fallback()?,
    };
    if let Graph::Saved { graph, weights } = graph {
        // **Source:** onnxruntime_session_options_config_keys.h.
        builder = builder
            .with_optimized_model_path(graph)?
            .with_config_entry("session.optimized_model_external_initializers_file_name", weights)?
            .with_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes",
                LEAST_EXTERNAL_BYTES,
            )?
            .with_config_entry("session.save_external_prepacked_constant_initializers", "1")?;
    }
    if matches!(graph, Graph::Unpacked) {
        builder = builder.with_config_entry("session.disable_prepacking", "1")?;
    }
    builder.commit_from_file(path)
}

#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// Reads names, types and shapes through the C API: `ort`'s own reading cannot tell a scalar from an unknown rank.
fn read_specs(session: &ort::session::Session, side: Side) -> Result<Vec<TensorSpec>> {
    let api = ort::api();
    let pointer = session.ptr();
    let mut count = 0;
    // SAFETY: the session is alive; `count` is written on success.
    let status = unsafe {
        match side {
            Side::Input => (api.SessionGetInputCount)(pointer, &raw mut count),
            Side::Output => (api.SessionGetOutputCount)(pointer, &raw mut count),
        }
    };
    check(status).map_err(Error::internal)?;
    (0..count).map(|index| read_spec(session, side, index)).collect()
}

fn read_spec(session: &ort::session::Session, side: Side, index: usize) -> Result<TensorSpec> {
    let name = read_name(session, side, index).map_err(Error::internal)?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::at(
            ErrorKind::InvalidModel,
            format!("{}[{index}].name", side.name()),
            format_args!("expected 1 to {MAX_NAME} printable bytes, got {}", Echo(&name)),
        ));
    }
    let info = TypeInfo::of(session, side, index).map_err(Error::internal)?;
    let unservable = |what: &str| {
        Error::at(
            ErrorKind::InvalidModel,
            format!("{} {}", side.name(), Echo(&name)),
            format_args!("expected a tensor of a type that the protocol has, got {what}"),
        )
    };
    let tensor =
        info.tensor().map_err(Error::internal)?.ok_or_else(|| unservable("a sequence, map or optional"))?;
    let datatype = tensor.datatype().map_err(Error::internal)?;
    let datatype = datatype.ok_or_else(|| unservable("a tensor of another element type"))?;
    let shape = tensor.shape().map_err(Error::internal)?;
    Ok(TensorSpec { name, datatype, shape })
}

fn read_name(session: &ort::session::Session, side: Side, index: usize) -> ort::Result<String> {
    let api = ort::api();
    let mut allocator = ptr::null_mut();
    let mut name: *mut c_char = ptr::null_mut();
    // SAFETY: the session is alive and `index` is below its count; the name is allocated by the default allocator,
    // copied, and given back to it.
    unsafe {
        check((api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
        check(match side {
            Side::Input => (api.SessionGetInputName)(session.ptr(), index, allocator, &raw mut name),
            Side::Output => (api.SessionGetOutputName)(session.ptr(), index, allocator, &raw mut name),
        })?;
        let copy = CStr::from_ptr(name).to_string_lossy().into_owned();
        check((api.AllocatorFree)(allocator, name.cast()))?;
        Ok(copy)
    }
}

/// A type description that ONNX Runtime allocated; released when dropped.
struct TypeInfo(*mut sys::OrtTypeInfo);

impl TypeInfo {
    fn of(session: &ort::session::Session, side: Side, index: usize) -> ort::Result<Self> {
        let api = ort::api();
        let mut info = ptr::null_mut();
        // SAFETY: the session is alive and `index` is below its count; `info` is ours on success.
        let status = unsafe {
            match side {
                Side::Input => (api.SessionGetInputTypeInfo)(session.ptr(), index, &raw mut info),
                Side::Output => (api.SessionGetOutputTypeInfo)(session.ptr(), index, &raw mut info),
            }
        };
        check(status)?;
        Ok(Self(info))
    }

    /// The tensor part; `None` for a sequence, a map, an optional or a sparse tensor.
    fn tensor(&self) -> ort::Result<Option<TensorInfo<'_>>> {
        let api = ort::api();
        let mut kind = sys::ONNXType::ONNX_TYPE_UNKNOWN;
        let mut tensor = ptr::null();
        // SAFETY: `self.0` is alive as long as the borrowed `TensorInfo`.
        unsafe {
            check((api.GetOnnxTypeFromTypeInfo)(self.0, &raw mut kind))?;
            if kind != sys::ONNXType::ONNX_TYPE_TENSOR {
                return Ok(None);
            }
            check((api.CastTypeInfoToTensorInfo)(self.0, &raw mut tensor))?;
        }
        Ok(Some(TensorInfo(tensor, std::marker::PhantomData)))
    }
}

impl Drop for TypeInfo {
    fn drop(&mut self) {
        // SAFETY: allocated for this value alone and released once.
        unsafe { (ort::api().ReleaseTypeInfo)(self.0) }
    }
}

struct TensorInfo<'a>(*const sys::OrtTensorTypeAndShapeInfo, std::marker::PhantomData<&'a TypeInfo>);

impl TensorInfo<'_> {
    fn datatype(&self) -> ort::Result<Option<DataType>> {
        // Read as a number: a library newer than `ort` may know element types that its enum does not have, and a
        // Rust enum of an unknown value would be undefined behaviour.
        let mut element: i32 = 0;
        // SAFETY: the enum has the representation of `i32`; the description is alive.
        check(unsafe { (ort::api().GetTensorElementType)(self.0, (&raw mut element).cast()) })?;
        Ok(datatype_of(element))
    }

    /// The dimensions; `None` when the rank is unknown.
    fn shape(&self) -> ort::Result<Option<Vec<Dimension>>> {
        let api = ort::api();
        let mut rank = 0;
        // SAFETY: the description is alive; the two arrays have the length that is passed with them, and the names
        // they point to live as long as the description.
        unsafe {
            if !(api.TensorTypeAndShape_HasShape)(self.0) {
                return Ok(None);
            }
            check((api.GetDimensionsCount)(self.0, &raw mut rank))?;
            let mut sizes = vec![0_i64; rank];
            let mut names: Vec<*const c_char> = vec![ptr::null(); rank];
            check((api.GetDimensions)(self.0, sizes.as_mut_ptr(), rank))?;
            check((api.GetSymbolicDimensions)(self.0, names.as_mut_ptr(), rank))?;
            let dimension = |(size, name): (i64, *const c_char)| {
                usize::try_from(size).map_or_else(|_| Dimension::Dynamic(symbol(name)), Dimension::Fixed)
            };
            Ok(Some(sizes.into_iter().zip(names).map(dimension).collect()))
        }
    }
}

/// # Safety
/// `name` must be null or a C string that lives during the call.
unsafe fn symbol(name: *const c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let name: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
    (!name.is_empty()).then_some(name)
}

/// The protocol's type for an `ONNXTensorElementDataType`. **Source:** `onnxruntime_c_api.h`.
fn datatype_of(element: i32) -> Option<DataType> {
    Some(match element {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}
