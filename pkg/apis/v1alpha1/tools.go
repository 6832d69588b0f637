package v1alpha1

// MCPServer is a server whose tools an agent may call.
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.command)",message="an MCP server needs exactly one of url and command"
// +kubebuilder:validation:XValidation:rule="!has(self.args) || has(self.command)",message="args needs command"
// +kubebuilder:validation:XValidation:rule="!has(self.transport) || self.transport == 'auto' || (self.transport == 'stdio') == has(self.command)",message="transport stdio goes with command, the others with url"
// +kubebuilder:validation:XValidation:rule="!has(self.command) || (!has(self.headers) && !has(self.auth))",message="headers and auth need url"
type MCPServer struct {
	// Name of the server. Its tools are named <server>__<tool>.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`
	Name string `json:"name"`
	// URL of a server that is reached over HTTP.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://.`
	// +optional
	URL string `json:"url,omitempty"`
	// Command is the program of a server that is spoken to over stdin and stdout. In the cluster it needs image.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Command string `json:"command,omitempty"`
	// Args of the command.
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=8192
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`
	// Transport to the server. auto finds out which one it speaks.
	// +kubebuilder:default=auto
	// +optional
	Transport MCPTransport `json:"transport,omitempty"`
	// Headers that are sent with every request.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Headers []Header `json:"headers,omitempty"`
	// Auth is how the agent shows who it is.
	// +optional
	Auth *MCPAuth `json:"auth,omitempty"`
	// Guidance on when and how to use the tools. It goes into the system prompt.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Guidance string `json:"guidance,omitempty"`
	// Required makes a pod unready while the server cannot be reached; otherwise only its tools are missing.
	// +kubebuilder:default=false
	// +optional
	Required bool `json:"required,omitempty"`
	// Tools selects among the server's tools.
	// +optional
	Tools *ToolFilter `json:"tools,omitempty"`
	// Idempotent says that every tool of the server may be called again with the same arguments.
	// +optional
	Idempotent bool `json:"idempotent,omitempty"`
}

// MCPTransport is a way to talk to a tool server.
// +kubebuilder:validation:Enum=auto;streamable-http;sse;stdio;rest
type MCPTransport string

const (
	TransportAuto           MCPTransport = "auto"
	TransportStreamableHTTP MCPTransport = "streamable-http"
	TransportSSE            MCPTransport = "sse"
	TransportStdio          MCPTransport = "stdio"
	TransportREST           MCPTransport = "rest"
)

// MCPAuth is how an agent shows a tool server who it is.
// +kubebuilder:validation:XValidation:rule="[has(self.tokenSecretRef), has(self.bearer), has(self.mtls)].filter(x, x).size() == 1",message="auth needs exactly one of tokenSecretRef, bearer and mtls"
// +kubebuilder:validation:XValidation:rule="!has(self.type) || (self.type == 'mtls') == has(self.mtls)",message="type mtls goes with mtls, type bearer with tokenSecretRef or bearer"
type MCPAuth struct {
	// Type of the credentials. Without it, what is set says it.
	// +optional
	Type MCPAuthType `json:"type,omitempty"`
	// TokenSecretRef names the Secret and the key that hold a bearer token.
	// +optional
	TokenSecretRef *KeyReference `json:"tokenSecretRef,omitempty"`
	// Bearer is another way to write tokenSecretRef.
	// +optional
	Bearer *SecretSource `json:"bearer,omitempty"`
	// MTLS presents a client certificate.
	// +optional
	MTLS *MTLSAuth `json:"mtls,omitempty"`
}

// MCPAuthType is a kind of credentials.
// +kubebuilder:validation:Enum=bearer;mtls
type MCPAuthType string

const (
	MCPAuthBearer MCPAuthType = "bearer"
	MCPAuthMTLS   MCPAuthType = "mtls"
)

// MTLSAuth is a client certificate.
type MTLSAuth struct {
	// SecretRef names the Secret with the keys tls.crt, tls.key and, for a server with a private authority, ca.crt.
	SecretRef SecretReference `json:"secretRef"`
}

// Token returns where the bearer token is, whichever way that was written, or nil.
func (a *MCPAuth) Token() *KeyReference {
	if a.Bearer != nil {
		return &a.Bearer.SecretKeyRef
	}
	return a.TokenSecretRef
}

// ToolFilter selects among the tools of a server.
type ToolFilter struct {
	// Allow lists the only tools that are offered. Empty means all.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=set
	// +optional
	Allow []string `json:"allow,omitempty"`
	// Deny lists tools that are not offered. It wins over allow.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=set
	// +optional
	Deny []string `json:"deny,omitempty"`
}

// WebhookTool is an HTTP call that an agent may make.
type WebhookTool struct {
	// Name that the model calls the tool by.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]+$`
	Name string `json:"name"`
	// Description tells the model what the tool does and when to use it.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Description string `json:"description,omitempty"`
	// URL that is called.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://.`
	URL string `json:"url"`
	// Method of the request. For GET and DELETE the arguments become query parameters, otherwise the JSON body.
	// +kubebuilder:default=POST
	// +optional
	Method HTTPMethod `json:"method,omitempty"`
	// Headers that are sent with every request.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Headers []Header `json:"headers,omitempty"`
	// InputSchema is the JSON Schema of the arguments, as JSON text. Without it any object is accepted.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	InputSchema string `json:"inputSchema,omitempty"`
	// TimeoutSeconds for one call.
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// Idempotent says that the tool may be called again with the same arguments when it is not known whether a call
	// was carried out. GET always may.
	// +optional
	Idempotent bool `json:"idempotent,omitempty"`
}

// HTTPMethod is the method of a webhook tool.
// +kubebuilder:validation:Enum=GET;POST;PUT;PATCH;DELETE
type HTTPMethod string

const (
	MethodGet    HTTPMethod = "GET"
	MethodPost   HTTPMethod = "POST"
	MethodPut    HTTPMethod = "PUT"
	MethodPatch  HTTPMethod = "PATCH"
	MethodDelete HTTPMethod = "DELETE"
)
