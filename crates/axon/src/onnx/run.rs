//! Runs a session through the C API: concurrent callers, any bytes in strings, outputs without a copy.

use std::ptr;
use std::sync::Arc;

use ort::AsPointer;
use ort::sys;
use synapse::{DataType, Memory, Shape, Tensor};

use super::message;
use super::options::RunOptions;
use super::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::stop::StopSignal;

impl Session {
    /// Runs the model once on `inputs`, which are in the model's order and fit its signature.
    ///
    /// The outputs borrow memory of ONNX Runtime and keep the session alive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] when the model refuses the values (an index out of range);
    /// [`ErrorKind::ExecutionFailed`] when it fails otherwise.
    pub fn run(self: &Arc<Self>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run_with(inputs, ptr::null())
    }

    /// Like [`Session::run`], until `stop` is tripped. ONNX Runtime looks between two nodes of the graph: a kernel that
    /// has begun ends first.
    ///
    /// # Errors
    /// As for [`Session::run`], and [`ErrorKind::Cancelled`] when it was stopped.
    pub fn run_until(self: &Arc<Self>, inputs: &[Tensor], stop: &StopSignal) -> Result<Vec<Tensor>> {
        let options = Arc::new(RunOptions::new().map_err(failed)?);
        let terminate = {
            let options = Arc::clone(&options);
            move || options.terminate()
        };
        let outcome = stop.watch(terminate, || self.run_with(inputs, options.as_ptr()));
        outcome.map_err(|error| if stop.is_tripped() { Error::stopped() } else { error })
    }

    fn run_with(
        self: &Arc<Self>,
        inputs: &[Tensor],
        options: *const sys::OrtRunOptions,
    ) -> Result<Vec<Tensor>> {
        if inputs.len() != self.input_names.len() {
            return Err(Error::internal(format_args!(
                "{} inputs for {}",
                inputs.len(),
                self.input_names.len()
            )));
        }
        let inputs: Vec<Tensor> = inputs.iter().map(|tensor| tensor.clone().aligned()).collect();
        let values = inputs.iter().map(Value::borrowing).collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let input_pointers: Vec<*const sys::OrtValue> =
            values.iter().map(|value| value.0.cast_const()).collect();
        let input_names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<_> = self.output_names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); output_names.len()];
        // SAFETY: `Run` of one session is safe from several threads (ONNX Runtime's promise, see its C API; the CPU
        // provider was measured to keep it). All arrays have the lengths that are passed; the input values and the
        // tensors that they borrow outlive the call, as the options do, which may be null; a null output asks ONNX
        // Runtime to allocate it.
        let status = unsafe {
            (ort::api().Run)(
                self.inner.ptr().cast_mut(),
                options,
                input_names.as_ptr(),
                input_pointers.as_ptr(),
                input_pointers.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            )
        };
        let outputs: Vec<Value> = outputs.into_iter().map(Value).collect();
        check(status).map_err(failed)?;
        let specs = &self.signature().outputs;
        let tensors =
            outputs.into_iter().zip(specs).map(|(value, spec)| value.into_tensor(spec.datatype, self));
        tensors.collect()
    }
}

/// A value that ONNX Runtime allocated; released when dropped. May be null.
struct Value(*mut sys::OrtValue);

// SAFETY: a value is only read after it is made, and may be released on any thread.
unsafe impl Send for Value {}
// SAFETY: as above.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: allocated for this value alone and released once; null is allowed.
        unsafe { (ort::api().ReleaseValue)(self.0) }
    }
}

impl Value {
    /// A value over the tensor's own memory; strings are copied, because ONNX Runtime owns its strings.
    fn borrowing(tensor: &Tensor) -> ort::Result<Self> {
        let dimensions: Vec<i64> =
            tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        if tensor.datatype() == DataType::Bytes {
            return Self::strings(tensor, &dimensions);
        }
        let mut value = ptr::null_mut();
        // SAFETY: the memory holds the shape's elements (`Tensor`'s invariant), is aligned for them, outlives the
        // run, and is only read as an input.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                cpu_memory()?,
                tensor.memory().as_ptr().cast_mut().cast(),
                tensor.memory().len(),
                dimensions.as_ptr(),
                dimensions.len(),
                element_type(tensor.datatype()),
                &raw mut value,
            )
        })?;
        Ok(Self(value))
    }

    fn strings(tensor: &Tensor, dimensions: &[i64]) -> ort::Result<Self> {
        let api = ort::api();
        let mut allocator = ptr::null_mut();
        let mut value = ptr::null_mut();
        // SAFETY: the default allocator lives for ever; `value` is ours on success.
        unsafe {
            check((api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
            check((api.CreateTensorAsOrtValue)(
                allocator,
                dimensions.as_ptr(),
                dimensions.len(),
                element_type(DataType::Bytes),
                &raw mut value,
            ))?;
        }
        let value = Self(value);
        for (index, element) in tensor.elements().enumerate() {
            let mut buffer = ptr::null_mut();
            // SAFETY: `index` is below the element count (`Tensor`'s invariant); the buffer has the length asked for.
            unsafe {
                check((api.GetResizedStringTensorElementBuffer)(
                    value.0,
                    index,
                    element.len(),
                    &raw mut buffer,
                ))?;
                ptr::copy_nonoverlapping(element.as_ptr(), buffer.cast(), element.len());
            }
        }
        Ok(value)
    }

    /// The output as a tensor that keeps this value, and through it the session, alive.
    fn into_tensor(self, datatype: DataType, session: &Arc<Session>) -> Result<Tensor> {
        let (element, shape) = self.element_and_shape().map_err(failed)?;
        if element != element_type(datatype) as i32 {
            return Err(Error::internal(format_args!(
                "an output of element type {element} where {datatype} was declared"
            )));
        }
        let memory = match datatype.size() {
            None => self.encode_strings(shape.element_count()).map_err(failed)?.into(),
            Some(size) => {
                let mut data = ptr::null_mut();
                // SAFETY: the value is a tensor, so it has data.
                check(unsafe { (ort::api().GetTensorMutableData)(self.0, &raw mut data) }).map_err(failed)?;
                let length = shape.element_count() * size;
                let owner = Arc::new((self, Arc::clone(session)));
                // SAFETY: the data is `length` bytes that nobody writes after the run; `owner` keeps the value and
                // the session, whose allocator it came from, alive.
                unsafe { Memory::from_raw(data.cast(), length, owner) }
            }
        };
        Tensor::new(datatype, shape, memory).map_err(Error::internal)
    }

    fn element_and_shape(&self) -> ort::Result<(i32, Shape)> {
        let mut element: i32 = 0;
        let mut dimensions = ptr::null();
        let mut rank = 0;
        // SAFETY: the value is a tensor; the enum has the representation of `i32`; the dimensions belong to the value
        // and are copied before it is released.
        let dimensions = unsafe {
            check((ort::api().GetTensorElementTypeAndShapeDataReference)(
                self.0,
                (&raw mut element).cast(),
                &raw mut dimensions,
                &raw mut rank,
            ))?;
            if rank == 0 { &[] } else { std::slice::from_raw_parts(dimensions, rank) }
        };
        let sizes: Vec<usize> = dimensions.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        Ok((element, Shape::new(&sizes).map_err(ort::Error::wrap)?))
    }

    /// The strings of an output in the protocol's encoding; copies each byte once.
    fn encode_strings(&self, count: usize) -> ort::Result<Vec<u8>> {
        let api = ort::api();
        let mut length = 0;
        let mut encoded = Vec::new();
        if count == 0 {
            return Ok(encoded);
        }
        // SAFETY: the value is a string tensor of `count` elements; both arrays have the lengths that are passed.
        let (bytes, offsets) = unsafe {
            check((api.GetStringTensorDataLength)(self.0, &raw mut length))?;
            let mut bytes = vec![0_u8; length];
            let mut offsets = vec![0_usize; count];
            check((api.GetStringTensorContent)(
                self.0,
                bytes.as_mut_ptr().cast(),
                length,
                offsets.as_mut_ptr(),
                count,
            ))?;
            (bytes, offsets)
        };
        encoded.reserve(length + count * synapse::bytes::PREFIX);
        for (index, &start) in offsets.iter().enumerate() {
            let end = offsets.get(index + 1).copied().unwrap_or(length);
            synapse::bytes::push(&mut encoded, bytes.get(start..end).unwrap_or_default());
        }
        Ok(encoded)
    }
}

/// Host memory, described once.
fn cpu_memory() -> ort::Result<*const sys::OrtMemoryInfo> {
    struct Info(*const sys::OrtMemoryInfo);
    // SAFETY: a description that is never changed or released.
    unsafe impl Send for Info {}
    // SAFETY: as above.
    unsafe impl Sync for Info {}
    static INFO: std::sync::OnceLock<Info> = std::sync::OnceLock::new();
    if let Some(info) = INFO.get() {
        return Ok(info.0);
    }
    let mut info = ptr::null_mut();
    // SAFETY: `info` is ours on success. Two threads at once may leave one description unused, never a wrong one.
    check(unsafe {
        (ort::api().CreateCpuMemoryInfo)(
            sys::OrtAllocatorType::OrtArenaAllocator,
            sys::OrtMemType::OrtMemTypeDefault,
            &raw mut info,
        )
    })?;
    Ok(INFO.get_or_init(|| Info(info)).0)
}

fn element_type(datatype: DataType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as Onnx;
    match datatype {
        DataType::Bool => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::Fp32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// Takes the status of a call of the C API.
pub(super) fn check(status: sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: every status here comes from a call of the C API and is taken once.
    unsafe { ort::Error::result_from_status(status) }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function value")]
fn failed(error: ort::Error) -> Error {
    let message = message::of(error.message());
    // The inputs fit the signature, so what the runtime calls an invalid argument is a value, such as an index out
    // of range: the caller's to mend.
    let kind = match error.code() {
        ort::ErrorCode::InvalidArgument => ErrorKind::InvalidRequest,
        _ => ErrorKind::ExecutionFailed,
    };
    let error_for_caller = match kind {
        ErrorKind::InvalidRequest => {
            Error::invalid("inputs", format_args!("the model refused the values: {message}"))
        }
        _ => Error::new(kind, format!("the model failed to run: {message}")),
    };
    error_for_caller.with_source(error.message().escape_debug())
}
