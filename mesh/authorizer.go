package mesh

import "time"

// Authorizer is a service that AuthorizationPolicies with action CUSTOM ask (extensionProviders of the mesh's configuration).
type Authorizer struct {
	Name string
	Host string // FQDN of the service, or host of a ServiceEntry
	Port uint16
	GRPC bool // envoy.service.auth.v3; otherwise HTTP

	Timeout    time.Duration
	FailOpen   bool
	Status     int // of requests that nobody decided about; 0: 403
	ClearRoute bool
	Body       *AuthorizerBody // nil: it is not shown

	// Of HTTP services. Names of headers are exact, "prefix*" or "*suffix".
	PathPrefix                            string
	Show                                  []string
	Add                                   [][2]string // in order of name
	ToUpstream, ToClient, ToClientOnAllow []string
}

// AuthorizerBody is how much of request bodies is shown.
type AuthorizerBody struct {
	Max            uint32
	Partial, Bytes bool
}
