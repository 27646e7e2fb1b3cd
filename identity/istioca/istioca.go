// Package istioca asks a control plane for certificates by Istio's protocol: gRPC
// istio.v1.auth.IstioCertificateService/CreateCertificate (istio.io/api
// security/v1alpha1).
//
// In: certificate requests of an identity.Manager. Out: certificate chains. The
// asker proves who it is with a bearer token, with the certificate it holds, or
// with both. A Client is immutable and safe for concurrent use; it holds no
// connection between requests.
package istioca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

// maxAnswer bounds an answer: ten certificates and 64 roots of RSA 4096 are
// 160 KB in PEM.
const maxAnswer = 256 << 10

// Options of a Client. Address and Servers are required.
type Options struct {
	// Address of the control plane: host:port, or a gRPC target.
	Address string
	// Servers are the identities the control plane may prove.
	Servers identity.Accept
	// Token gives the bearer token. It is called for each request, because tokens
	// in files are replaced while we run. Nil: the certificate alone.
	Token func() (redact.String, error)
	// These go along with each request under Istio's names: something for the
	// authority's log, no proof of anything.
	WorkloadName, WorkloadIP, ClusterID string
	// Dial adds to how the address is reached.
	Dial []grpc.DialOption
}

// Client is an identity.Signer.
type Client struct {
	o        Options
	metadata *structpb.Struct
}

// New makes a client; it connects to nothing yet.
func New(o Options) (*Client, error) {
	if o.Address == "" || o.Servers == nil {
		return nil, errors.New("certificate client: the control plane's address and identities are required")
	}
	fields := map[string]any{}
	for k, v := range map[string]string{"WorkloadName": o.WorkloadName, "WorkloadIP": o.WorkloadIP, "ClusterID": o.ClusterID} {
		if v != "" {
			fields[k] = v
		}
	}
	md, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, fmt.Errorf("certificate client: request metadata: %w", err)
	}
	return &Client{o, md}, nil
}

// Sign connects anew each time. Requests are half a day apart, and a connection
// kept from the first one would show no certificate for ever.
func (c *Client) Sign(ctx context.Context, req identity.Request) ([]byte, error) {
	chain, err := c.sign(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("asking %s for a certificate: %w", c.o.Address, err)
	}
	return chain, nil
}

func (c *Client) sign(ctx context.Context, req identity.Request) ([]byte, error) {
	token, noToken, err := c.token(req)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(c.o.Address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(req.As, c.o.Servers))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithDisableServiceConfig(), // no retries told by DNS: the caller's are paced
		grpc.WithNoProxy(),              // an HTTPS_PROXY is meant for applications
	}, c.o.Dial...)...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	answer, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{
		Csr: string(req.CSR),
		// Whole seconds, rounded up: the half second that a fraction is short of
		// would else ask for the default.
		ValidityDuration: int64((req.TTL + time.Second - 1) / time.Second),
		Metadata:         c.metadata,
	}, grpc.PerRPCCredentials(callCredentials{token, c.o.ClusterID}))
	if err != nil {
		s := status.Convert(err)
		return nil, errors.Join(fmt.Errorf("%s: %s", s.Code(), s.Message()), noToken)
	}
	if len(answer.GetCertChain()) == 0 {
		return nil, errors.New("the answer is empty")
	}
	// Elements may hold several certificates, and need not end in a newline.
	return []byte(strings.Join(answer.GetCertChain(), "\n")), nil
}

// token reads the token. That there is none is an error only for those who have
// no certificate either.
func (c *Client) token(req identity.Request) (token redact.String, noToken, err error) {
	if c.o.Token == nil {
		return redact.String{}, nil, nil
	}
	token, err = c.o.Token()
	if err == nil && strings.TrimSpace(token.Reveal()) == "" {
		err = errors.New("it is empty")
	}
	if err == nil {
		return redact.New(strings.TrimSpace(token.Reveal())), nil, nil
	}
	err = fmt.Errorf("reading the bearer token: %w", err)
	if req.As.Certificate() != nil {
		return redact.String{}, err, nil
	}
	return redact.String{}, nil, err
}

// callCredentials are refused by gRPC on a connection without TLS.
type callCredentials struct {
	token     redact.String
	clusterID string
}

func (callCredentials) RequireTransportSecurity() bool { return true }

func (c callCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	md := map[string]string{}
	if !c.token.IsZero() {
		md["authorization"] = "Bearer " + c.token.Reveal()
	}
	if c.clusterID != "" {
		md["clusterid"] = c.clusterID
	}
	return md, nil
}
