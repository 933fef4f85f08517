//! The unary calls but inference: a message in, a verb's answer out.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axon::error::Echo;
use axon::reason::Reason;
use axon::repository::{LoadOverrides, check_name};
use axon::{Error, Result};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::{decode, health};
use crate::admin;
use crate::app::App;
use crate::proto::DESCRIPTORS;
use crate::proto::inference::log_settings_request::setting_value::ParameterChoice;
use crate::proto::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use crate::proto::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse,
    LogSettingsRequest, LogSettingsResponse, ModelConfig, ModelConfigRequest, ModelConfigResponse,
    ModelMetadataRequest, ModelReadyRequest, ModelReadyResponse, ModelRepositoryParameter,
    ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveResponse, ServerReadyResponse,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse, TraceSettingRequest, TraceSettingResponse, log_settings_response,
    system_shared_memory_status_response, trace_setting_response,
};
use crate::route::{MemoryKind, parse_version};
use crate::settings::LogValue;
use crate::shared_memory::SystemRegion;
use crate::verbs;

/// A call of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    ServerLive,
    ServerReady,
    ModelReady,
    ServerMetadata,
    ModelMetadata,
    ModelInfer,
    ModelStreamInfer,
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    SystemSharedMemoryStatus,
    SystemSharedMemoryRegister,
    SystemSharedMemoryUnregister,
    CudaSharedMemoryStatus,
    CudaSharedMemoryRegister,
    CudaSharedMemoryUnregister,
    TraceSetting,
    LogSettings,
    HealthCheck,
    HealthWatch,
}

impl Verb {
    /// The call of the inference service with this name.
    pub fn of_inference(method: &str) -> Option<Self> {
        Some(match method {
            "ServerLive" => Self::ServerLive,
            "ServerReady" => Self::ServerReady,
            "ModelReady" => Self::ModelReady,
            "ServerMetadata" => Self::ServerMetadata,
            "ModelMetadata" => Self::ModelMetadata,
            "ModelInfer" => Self::ModelInfer,
            "ModelStreamInfer" => Self::ModelStreamInfer,
            "ModelConfig" => Self::ModelConfig,
            "ModelStatistics" => Self::ModelStatistics,
            "RepositoryIndex" => Self::RepositoryIndex,
            "RepositoryModelLoad" => Self::RepositoryModelLoad,
            "RepositoryModelUnload" => Self::RepositoryModelUnload,
            "SystemSharedMemoryStatus" => Self::SystemSharedMemoryStatus,
            "SystemSharedMemoryRegister" => Self::SystemSharedMemoryRegister,
            "SystemSharedMemoryUnregister" => Self::SystemSharedMemoryUnregister,
            "CudaSharedMemoryStatus" => Self::CudaSharedMemoryStatus,
            "CudaSharedMemoryRegister" => Self::CudaSharedMemoryRegister,
            "CudaSharedMemoryUnregister" => Self::CudaSharedMemoryUnregister,
            "TraceSetting" => Self::TraceSetting,
            "LogSettings" => Self::LogSettings,
            _ => return None,
        })
    }

    /// The call of the health service with this name.
    pub fn of_health(method: &str) -> Option<Self> {
        match method {
            "Check" => Some(Self::HealthCheck),
            "Watch" => Some(Self::HealthWatch),
            _ => None,
        }
    }
}

/// Answers any call but the two that infer and the one that watches.
pub(super) async fn answer(app: &Arc<App>, verb: Verb, message: Bytes) -> Result<BytesMut> {
    match verb {
        Verb::ServerLive => encode(&ServerLiveResponse { live: true }),
        Verb::ServerReady => encode(&ServerReadyResponse { ready: verbs::ready(app).is_ok() }),
        Verb::HealthCheck => encode(&health::check(app)),
        Verb::ModelReady => {
            let ModelReadyRequest { name, version } = decode(message)?;
            check_name(&name)?;
            let ready = crate::health::model_ready(app, &name, parse(&version)?).is_ok();
            encode(&ModelReadyResponse { ready })
        }
        Verb::ServerMetadata => encode(&verbs::server_metadata(app)),
        Verb::ModelMetadata => {
            let ModelMetadataRequest { name, version } = decode(message)?;
            check_name(&name)?;
            app.server.loaded_model(&name, parse(&version)?, None).await?;
            encode(&verbs::model_metadata(app, &name, parse(&version)?)?)
        }
        Verb::ModelStatistics => {
            let ModelStatisticsRequest { name, version } = decode(message)?;
            // No name is all models.
            if !name.is_empty() {
                check_name(&name)?;
            }
            let model_stats = verbs::statistics(app, &name, parse(&version)?)?;
            encode(&ModelStatisticsResponse { model_stats })
        }
        Verb::RepositoryIndex => {
            let RepositoryIndexRequest { repository_name, ready } = decode(message)?;
            let models = verbs::index(app, Some(&repository_name), ready)?;
            encode(&RepositoryIndexResponse { models })
        }
        Verb::RepositoryModelLoad => {
            let RepositoryModelLoadRequest { repository_name, model_name, parameters } = decode(message)?;
            check_name(&model_name)?;
            verbs::load(app, Some(&repository_name), &model_name, overrides(parameters)?).await?;
            encode(&RepositoryModelLoadResponse {})
        }
        Verb::RepositoryModelUnload => {
            let RepositoryModelUnloadRequest { repository_name, model_name, parameters } = decode(message)?;
            check_name(&model_name)?;
            let dependents = unload_dependents(&parameters)?;
            verbs::unload(app, Some(&repository_name), &model_name, dependents).await?;
            encode(&RepositoryModelUnloadResponse {})
        }
        Verb::SystemSharedMemoryStatus => {
            let SystemSharedMemoryStatusRequest { name } = decode(message)?;
            let regions = verbs::shared_memory_status(app, MemoryKind::System, Some(&name))?;
            encode(&SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(region).collect() })
        }
        Verb::SystemSharedMemoryRegister => {
            let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = decode(message)?;
            app.shared_memory.register_system(&name, &key, offset, byte_size)?;
            encode(&SystemSharedMemoryRegisterResponse {})
        }
        Verb::SystemSharedMemoryUnregister => {
            let SystemSharedMemoryUnregisterRequest { name } = decode(message)?;
            verbs::shared_memory_unregister(app, MemoryKind::System, Some(&name))?;
            encode(&SystemSharedMemoryUnregisterResponse {})
        }
        Verb::CudaSharedMemoryStatus => {
            let CudaSharedMemoryStatusRequest { name } = decode(message)?;
            verbs::shared_memory_status(app, MemoryKind::Cuda, Some(&name))?;
            encode(&CudaSharedMemoryStatusResponse::default())
        }
        Verb::CudaSharedMemoryRegister => {
            let CudaSharedMemoryRegisterRequest { name, raw_handle, .. } = decode(message)?;
            app.shared_memory.register_cuda(&name, &raw_handle)?;
            encode(&CudaSharedMemoryRegisterResponse {})
        }
        Verb::CudaSharedMemoryUnregister => {
            let CudaSharedMemoryUnregisterRequest { name } = decode(message)?;
            verbs::shared_memory_unregister(app, MemoryKind::Cuda, Some(&name))?;
            encode(&CudaSharedMemoryUnregisterResponse {})
        }
        Verb::TraceSetting => trace_setting(app, message),
        Verb::LogSettings => log_settings(app, message),
        Verb::ModelConfig => {
            let ModelConfigRequest { name, version } = decode(message)?;
            check_name(&name)?;
            app.server.loaded_model(&name, parse(&version)?, None).await?;
            let config = config_message(verbs::model_config(app, &name, parse(&version)?)?)?;
            encode(&ModelConfigResponse { config: Some(config) })
        }
        Verb::ModelInfer | Verb::ModelStreamInfer | Verb::HealthWatch => {
            Err(Error::internal("what infers or watches is answered elsewhere"))
        }
    }
}

fn encode(message: &impl Message) -> Result<BytesMut> {
    super::body::encode(message, 0)
}

/// The descriptions of the messages, to turn JSON into one.
static MESSAGES: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// A configuration as a message: the JSON is that message's own.
fn config_message(json: serde_json::Value) -> Result<ModelConfig> {
    let pool = MESSAGES.as_ref().ok_or_else(|| Error::internal("the compiled descriptors cannot be read"))?;
    let descriptor = pool
        .get_message_by_name("inference.ModelConfig")
        .ok_or_else(|| Error::internal("the compiled descriptors lack ModelConfig"))?;
    let message = DynamicMessage::deserialize(descriptor, json).map_err(Error::internal)?;
    message.transcode_to().map_err(Error::internal)
}

/// A version as messages have it: empty for any.
pub(super) fn parse(version: &str) -> Result<Option<u64>> {
    if version.is_empty() {
        return Ok(None);
    }
    let reason = || Reason::VersionText(version.to_owned());
    parse_version(version).map(Some).map_err(|error| error.because(reason()))
}

fn region(region: SystemRegion) -> (String, system_shared_memory_status_response::RegionStatus) {
    let SystemRegion { name, key, offset, byte_size } = region;
    let status =
        system_shared_memory_status_response::RegionStatus { name: name.clone(), key, offset, byte_size };
    (name, status)
}

type LoadParameters = BTreeMap<String, ModelRepositoryParameter>;

fn overrides(parameters: LoadParameters) -> Result<LoadOverrides> {
    let mut overrides = LoadOverrides::default();
    for (key, parameter) in parameters {
        match parameter.parameter_choice {
            Some(RepositoryChoice::StringParam(text)) if key == "config" => overrides.config = Some(text),
            Some(RepositoryChoice::BytesParam(bytes)) if key.starts_with("file:") => {
                overrides.files.push((key, bytes.into()));
            }
            _ if key == "config" => {
                return Err(Error::invalid("parameters.config", "expected a string, got something else"));
            }
            _ if key.starts_with("file:") => {
                let field = format!("parameters.{}", Echo(&key).to_string().trim_matches('`'));
                return Err(Error::invalid(field, "expected bytes, got something else"));
            }
            other => {
                let datatype = match other {
                    Some(RepositoryChoice::BoolParam(_)) => "bool",
                    Some(RepositoryChoice::Int64Param(_)) => "int64",
                    Some(RepositoryChoice::StringParam(_)) => "string",
                    Some(RepositoryChoice::BytesParam(_)) => "bytes",
                    None => "none",
                };
                return Err(admin::unknown_load_parameter(&key, datatype));
            }
        }
    }
    Ok(overrides)
}

fn unload_dependents(parameters: &LoadParameters) -> Result<bool> {
    match parameters.get("unload_dependents").map(|parameter| &parameter.parameter_choice) {
        None => Ok(false),
        Some(Some(RepositoryChoice::BoolParam(unload))) => Ok(*unload),
        Some(_) => {
            Err(Error::invalid("parameters.unload_dependents", "expected a boolean, got something else"))
        }
    }
}

fn trace_setting(app: &App, message: Bytes) -> Result<BytesMut> {
    let TraceSettingRequest { settings, model_name } = decode(message)?;
    let model = (!model_name.is_empty()).then_some(model_name.as_str());
    model.map_or(Ok(()), check_name)?;
    verbs::check_traced(app, model)?;
    // No value clears a setting.
    let update = settings.into_iter().map(|(key, setting)| {
        let values = setting.value;
        (key, (!values.is_empty()).then_some(values))
    });
    app.settings.set_trace(model, update.collect())?;
    let settings = app.settings.trace(model).into_iter();
    let settings =
        settings.map(|(key, value)| (key.to_owned(), trace_setting_response::SettingValue { value }));
    encode(&TraceSettingResponse { settings: settings.collect() })
}

fn log_settings(app: &App, message: Bytes) -> Result<BytesMut> {
    let LogSettingsRequest { settings } = decode(message)?;
    let mut update = BTreeMap::new();
    for (key, setting) in settings {
        let value = match setting.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => LogValue::Bool(value),
            Some(ParameterChoice::Uint32Param(value)) => LogValue::Uint(value.into()),
            Some(ParameterChoice::StringParam(value)) => LogValue::Text(value),
            None => return Err(Error::invalid("settings", "expected a value for each setting, got none")),
        };
        update.insert(key, value);
    }
    app.settings.set_log(update)?;
    let setting = |(key, value): (&'static str, LogValue)| {
        use log_settings_response::setting_value::ParameterChoice;
        let choice = match value {
            LogValue::Bool(value) => ParameterChoice::BoolParam(value),
            LogValue::Uint(value) => ParameterChoice::Uint32Param(u32::try_from(value).unwrap_or(u32::MAX)),
            LogValue::Text(value) | LogValue::Other(value) => ParameterChoice::StringParam(value),
        };
        let value = log_settings_response::SettingValue { parameter_choice: Some(choice) };
        (key.to_owned(), value)
    };
    let settings = app.settings.log().into_iter().map(setting).collect();
    encode(&LogSettingsResponse { settings })
}
