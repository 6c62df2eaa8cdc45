//! The tools: what they are called, what they take, and how a call waits for a person.

use super::pending::{Pending, Waiting};
use bottle_policy::{
    Proposal,
    message::Answer,
    proposal::{MAX_DOCKERFILE, MAX_JUSTIFICATION, MAX_LISTED, MAX_PATH, MAX_ROUTES, MAX_URL, is_id},
};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, JsonObject,
        ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig, Tool,
        ToolAnnotations,
    },
    service::RequestContext,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, interval, sleep_until};

/// How often a call that waits says so. A client that hears nothing for a minute gives up.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long a call waits, where the client takes progress. After that the proposal waits on without it.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The same where it does not: clients give up after 60 s.
const SHORT_PATIENCE: Duration = Duration::from_secs(45);

const LIST: &str = "list-egress-routes";
const EGRESS: &str = "egress-block";
const PIPELOCK: &str = "pipelock-block";
const CAPABILITY: &str = "capability-block";
/// The argument by which a call goes on waiting for an earlier proposal.
const AGAIN: &str = "pending_id";

/// One request's handler.
#[derive(Clone)]
pub(super) struct Tools(Arc<Pending>);

impl Tools {
    pub(super) fn new(pending: Arc<Pending>) -> Self {
        Self(pending)
    }

    /// The routes of now.
    fn routes(&self) -> Value {
        let policy = self.0.policy();
        let route = |route: &bottle_policy::Route| {
            json!({
                "host": route.host, "ports": route.ports, "paths": route.paths, "methods": route.methods,
                "credential": if route.auth.is_some() { "put in by the sidecar" } else { "none" },
            })
        };
        json!({ "mode": policy.mode, "routes": policy.routes.iter().map(route).collect::<Vec<_>>() })
    }

    /// A place to wait, or why there is none.
    fn begin(&self, tool: &str, mut arguments: JsonObject) -> Result<Waiting, String> {
        if let Some(id) = arguments.remove(AGAIN) {
            let id = id.as_str().filter(|id| is_id(id)).ok_or(format!("`{AGAIN}` is not as it was given out"))?;
            if !arguments.is_empty() {
                return Err(format!("`{AGAIN}` stands alone: it is about a proposal that was made already"));
            }
            return self.0.ask_again(id.to_owned()).map_err(|error| error.to_string());
        }
        arguments.insert("tool".into(), tool.into());
        let proposal: Proposal = serde_json::from_value(arguments.into()).map_err(|error| error.to_string())?;
        proposal.check()?;
        self.0.propose(proposal).map_err(|error| error.to_string())
    }
}

/// Waits for a person, for as long as the client does.
async fn decided(tool: &str, mut waiting: Waiting, context: &RequestContext<RoleServer>) -> CallToolResult {
    let token = context.meta.get_progress_token();
    let patience = if token.is_some() { PATIENCE } else { SHORT_PATIENCE };
    let (end, mut ticks, mut progress) = (Instant::now() + patience, interval(PROGRESS), 0.0);
    loop {
        let answer = waiting.answer.borrow_and_update().clone();
        if let Some(result) = answer.as_ref().and_then(|answer| result(tool, answer, &waiting.id)) {
            return result;
        }
        tokio::select! {
            changed = waiting.answer.changed() => if changed.is_err() { return undecided(&waiting.id, answer.as_ref()) },
            () = sleep_until(end) => return undecided(&waiting.id, answer.as_ref()),
            // Nobody hears it.
            () = context.ct.cancelled() => return undecided(&waiting.id, answer.as_ref()),
            _ = ticks.tick() => if let Some(token) = &token {
                progress += 1.0;
                let message = format!("proposal {} waits for the operator", waiting.id);
                let word = ProgressNotificationParam::new(token.clone(), progress).with_message(message);
                let _ = context.peer.notify_progress(word).await;
            },
        }
    }
}

fn result(tool: &str, answer: &Answer, id: &str) -> Option<CallToolResult> {
    let holds = match tool {
        CAPABILITY => "The image is made: you are in it once this bottle is resumed, and not before.",
        _ => "It holds now.",
    };
    Some(match answer {
        Answer::Pending => return None,
        Answer::Approved { note } if note.is_empty() => said(format!("Proposal {id} was approved. {holds}")),
        Answer::Approved { note } => said(format!("Proposal {id} was approved. {holds} The operator says: {note}")),
        Answer::Rejected { reason } if reason.is_empty() => {
            failed(format!("The operator rejected proposal {id}. Do without it, or ask the user."))
        }
        Answer::Rejected { reason } => failed(format!("The operator rejected proposal {id}: {reason}")),
        Answer::Refused { message } => failed(format!("Nobody was asked: {message}")),
    })
}

fn undecided(id: &str, answer: Option<&Answer>) -> CallToolResult {
    match answer {
        Some(_) => said(format!(
            "Proposal {id} still waits for the operator. Go on with something else, and call this tool again later with \
             {{\"{AGAIN}\": \"{id}\"}} alone."
        )),
        None => failed("The operator's machine does not answer. Try again later.".into()),
    }
}

fn said(text: String) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn failed(text: String) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(text)])
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let about = "The operator of the bottle that you run in decides on what you propose here. What was refused with \
                     `bottle_egress_denied` may be asked for; retrying without asking does not help.";
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("bottle-supervise", env!("CARGO_PKG_VERSION")))
            .with_instructions(about)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name.as_ref();
        Ok(match name {
            LIST => said(self.routes().to_string()).into(),
            EGRESS | PIPELOCK | CAPABILITY => match self.begin(name, request.arguments.unwrap_or_default()) {
                Ok(waiting) => decided(name, waiting, &context).await.into(),
                Err(why) => failed(format!("Nobody was asked: {why}")).into(),
            },
            _ => return Err(ErrorData::invalid_params("there is no tool of that name", None)),
        })
    }
}

/// All of them, in the order in which they are listed.
fn tools() -> Vec<Tool> {
    let route = json!({
        "type": "object",
        "properties": {
            "host": {"type": "string", "description": "The exact name, in lower case, without port and wildcard"},
            "ports": {
                "type": "array", "maxItems": MAX_LISTED, "items": {"type": "integer", "minimum": 1, "maximum": 65535},
                "description": "443, where it is left out",
            },
            "paths": {
                "type": "array", "maxItems": MAX_LISTED, "items": {"type": "string", "maxLength": MAX_PATH},
                "description": "Prefixes like /v1; every path, where it is left out. Ask for no more than you need",
            },
            "methods": {
                "type": "array", "maxItems": MAX_LISTED, "items": {"type": "string"},
                "description": "Like GET; every method, where it is left out",
            },
        },
        "required": ["host"],
        "additionalProperties": false,
    });
    let routes = json!({"type": "array", "minItems": 1, "maxItems": MAX_ROUTES, "items": route});
    let url = json!({"type": "string", "maxLength": MAX_URL, "description": "The URL that failed"});
    let dockerfile = json!({
        "type": "string", "maxLength": MAX_DOCKERFILE,
        "description": "Lines like `RUN apt-get update && apt-get install -y jq`, which go on from the image that you run \
                        in. Only RUN, ENV, USER (root, as at first, or agent), WORKDIR and SHELL; no FROM but `FROM \
                        bottle`; nothing is copied, added or mounted. A RUN reaches the hosts that you may reach, by \
                        the proxy that its environment names, and no others: ask for these first",
    });
    vec![
        Tool::new(
            LIST,
            "Lists the hosts, paths and methods that you may reach now. Nobody is asked.",
            schema(json!({})),
        )
        .annotate(ToolAnnotations::default().read_only(true)),
        proposing(
            EGRESS,
            "Asks the operator for routes to hosts that you may not reach. Waits until a person has decided, which may \
             take minutes; once approved the route holds at once. No private address, and no credential, is to be had.",
            ("routes", routes),
        ),
        proposing(
            PIPELOCK,
            "Asks the operator to let a URL pass that the second proxy refused. Waits until a person has decided.",
            ("url", url),
        ),
        proposing(
            CAPABILITY,
            "Asks the operator for a program that your image lacks. Waits until a person has decided. What is approved \
             is there in a later session, not in this one.",
            ("dockerfile", dockerfile),
        ),
    ]
}

/// A tool that asks a person, or asks again.
fn proposing(name: &'static str, about: &'static str, (what, of): (&str, Value)) -> Tool {
    let why = json!({
        "type": "string", "maxLength": MAX_JUSTIFICATION,
        "description": "What you need it for, in a sentence or two: a person reads it and decides",
    });
    let again = json!({
        "type": "string",
        "description": "Alone: goes on waiting for a proposal that still waited when an earlier call ended",
    });
    let properties = json!({what: of, "justification": why, AGAIN: again});
    Tool::new(name, about, schema(properties)).annotate(ToolAnnotations::default().destructive(false))
}

/// The schema of an object with these properties and no others.
fn schema(properties: Value) -> Arc<JsonObject> {
    let mut schema = JsonObject::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties);
    schema.insert("additionalProperties".into(), false.into());
    Arc::new(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Feed;
    use bottle_policy::Policy;

    fn handler() -> Tools {
        Tools::new(Arc::new(Pending::new(Policy::default(), Feed::default())))
    }

    /// What each property that a schema names may hold.
    fn example(name: &str) -> Value {
        match name {
            "host" => "a.example".into(),
            "ports" => json!([443]),
            "paths" => json!(["/a"]),
            "methods" => json!(["GET"]),
            "routes" => json!([{"host": "a.example"}]),
            "url" => "https://a.example/".into(),
            "dockerfile" => "RUN true".into(),
            "justification" => "it is needed".into(),
            other => panic!("no example of {other}"),
        }
    }

    #[test]
    fn what_a_schema_names_is_taken_and_nothing_else() {
        for tool in tools().into_iter().filter(|tool| tool.name != LIST) {
            let properties = tool.input_schema["properties"].as_object().unwrap();
            let mut arguments: JsonObject =
                properties.keys().filter(|name| *name != AGAIN).map(|name| (name.clone(), example(name))).collect();
            if let Some(routes) = properties.get("routes") {
                let keys = routes["items"]["properties"].as_object().unwrap().keys();
                let route: JsonObject = keys.map(|name| (name.clone(), example(name))).collect();
                arguments.insert("routes".into(), json!([route]));
            }
            assert!(handler().begin(&tool.name, arguments.clone()).is_ok(), "{}: {arguments:?}", tool.name);
            arguments.insert("tls_passthrough".into(), true.into());
            assert!(handler().begin(&tool.name, arguments.clone()).is_err(), "{}", tool.name);
            let mut again = JsonObject::from_iter([(AGAIN.to_owned(), "0123456789abcdef".into())]);
            assert!(handler().begin(&tool.name, again.clone()).is_ok());
            again.insert("justification".into(), "x".into());
            assert!(handler().begin(&tool.name, again).is_err());
            let bad = JsonObject::from_iter([(AGAIN.to_owned(), "../../x".into())]);
            assert!(handler().begin(&tool.name, bad).is_err());
        }
    }
}
