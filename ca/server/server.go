// Package server offers a certificate authority over the network: the gRPC service
// istio.v1.auth.IstioCertificateService of Istio's control plane (istio.io/api
// security/v1alpha1), which Istio's agents and ztunnel speak too.
//
// In: certificate requests with a credential. Out: certificates for the identity
// the credential proves, whatever the request says; refusals with a gRPC status
// and a sentence; counters. A Server is safe for concurrent use. The control plane
// registers it on the port that has identity.ServerTLS.
package server

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/identity"
)

// Options of a Server. All but External and Issued are required.
type Options struct {
	Authority ca.Source
	// External signs in the authority's place, which then says what roots there are; nil: nobody does.
	External ca.External
	// Authenticators are asked in this order; the first that knows the caller
	// decides who it is.
	Authenticators []Authenticator
	// TrustDomains whose identities are certified: the mesh's own and its aliases. For any number of goroutines.
	TrustDomains func() []string
	// Issued is told of every certificate; workload is the one that asked, as far as it is
	// known. Nil: nobody is told.
	Issued func(id identity.ID, workload, host string, leaf *x509.Certificate)
	Log    *slog.Logger
}

// maxAsked bounds what the log has of another identity that a request names, which may be of 16 KB.
const maxAsked = 1 << 10

type callerKey struct {
	id   identity.ID // zero: somebody unknown
	host string
}

// Server is an IstioCertificateServiceServer.
type Server struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer
	o     Options
	limit limit.Limiter[callerKey]
	count counters
}

// New makes a server.
func New(o Options) (*Server, error) {
	if o.Authority == nil || len(o.Authenticators) == 0 || o.TrustDomains == nil || o.Log == nil {
		return nil, errors.New("certificate server: an authority, an authenticator, a trust domain and a logger are required")
	}
	return &Server{o: o}, nil
}

// Register adds the service to a gRPC server. Who may not ask is refused before gRPC reads what is asked, which the
// handler of Istio's own description would do first: a stranger would fill the memory with messages that nobody wants,
// or keep a call for ever by sending half of one.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	desc := securityv1alpha1.IstioCertificateService_ServiceDesc
	r.RegisterService(&grpc.ServiceDesc{ServiceName: desc.ServiceName, HandlerType: desc.HandlerType, Metadata: desc.Metadata,
		Methods: []grpc.MethodDesc{{MethodName: desc.Methods[0].MethodName, Handler: func(srv any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			s := srv.(*Server)
			caller, err := s.admit(ctx)
			if err != nil {
				return nil, err
			}
			req := &securityv1alpha1.IstioCertificateRequest{}
			if err := read(req); err != nil {
				return nil, err
			}
			return s.certify(ctx, caller, req)
		}}}}, s)
}

// CreateCertificate certifies the key of a request as that of the caller.
func (s *Server) CreateCertificate(ctx context.Context, req *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	caller, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	return s.certify(ctx, caller, req)
}

// admit finds out who asks, and whether that is too often. It returns only errors with a gRPC status.
func (s *Server) admit(ctx context.Context) (Caller, error) {
	s.count.requests.Add(1)
	host := PeerHost(ctx)

	caller, err := Authenticate(ctx, s.o.Authenticators)
	if gone, ok := errors.AsType[*GoneError](err); ok {
		s.count.gone.Add(1)
		if s.limit.Allow(time.Now(), callerKey{gone.ID, host}) {
			s.o.Log.Warn("certificate request refused", "id", gone.ID, "peer", host, "err", err)
		}
		return Caller{}, status.Error(codes.PermissionDenied, err.Error())
	}
	if err != nil {
		s.count.unauthenticated.Add(1)
		if s.Replayed(host, "certificate request refused", err) {
			return Caller{}, status.Error(codes.Unauthenticated, err.Error())
		}
		if s.limit.Allow(time.Now(), callerKey{host: host}) { // strangers do not fill the log
			s.o.Log.Warn("certificate request refused", "peer", host, "err", err)
		}
		code := codes.Unauthenticated
		if errors.Is(err, ErrUnchecked) {
			code = codes.Unavailable
		}
		return Caller{}, status.Error(code, err.Error())
	}
	if key := (callerKey{caller.ID, host}); !s.limit.Allow(time.Now(), key) {
		s.count.limited.Add(1)
		err := fmt.Errorf("%s asks from %s more often than %d times a second: is a proxy in a loop?", caller.ID, host, limit.Rate)
		if s.limit.Tell(time.Now(), key) { // a line for each would be the next flood
			s.o.Log.Warn("certificate request refused", "id", caller.ID, "workload", caller.Workload, "peer", host, "err", err)
		}
		return Caller{}, status.Error(codes.ResourceExhausted, err.Error())
	}
	return caller, nil
}

// Replayed counts and logs a token that was shown from another pod, if that is what err says. It is also for tokens that
// open streams of configuration; host is who showed it, what what became of it.
func (s *Server) Replayed(host, what string, err error) bool {
	replay, ok := errors.AsType[*ReplayError](err)
	if !ok {
		return false
	}
	s.count.replayed.Add(1)
	if s.limit.Allow(time.Now(), callerKey{host: host}) {
		s.o.Log.Warn(what, "id", replay.ID, "pod", replay.Pod, "peer", host, "at", replay.At, "err", err) //nolint:sloglint // one of two constants
	}
	return true
}

func (s *Server) certify(ctx context.Context, caller Caller, req *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	host := PeerHost(ctx)
	issued, err := s.issue(ctx, caller, req)
	if err != nil {
		s.o.Log.Warn("certificate request refused", "id", caller.ID, "workload", caller.Workload, "peer", host, "err", err)
		return nil, err
	}
	s.count.issued.Add(1)
	if s.o.Issued != nil {
		s.o.Issued(caller.ID, cmp.Or(caller.Workload, req.GetMetadata().GetFields()["WorkloadName"].GetStringValue()), host, issued.Leaf)
	}
	said := []any{"id", caller.ID, "workload", caller.Workload, "peer", host, "by", caller.Proof,
		"serial", fmt.Sprintf("%x", issued.Leaf.SerialNumber), "valid_until", issued.Leaf.NotAfter}
	if issued.Asked != "" {
		said = append(said, "asked", issued.Asked[:min(len(issued.Asked), maxAsked)])
	}
	s.o.Log.Info("certificate issued", said...)
	return &securityv1alpha1.IstioCertificateResponse{CertChain: issued.Chain}, nil
}

// issue returns only errors with a gRPC status.
func (s *Server) issue(ctx context.Context, caller Caller, req *securityv1alpha1.IstioCertificateRequest) (*ca.Issued, error) {
	if domains := s.o.TrustDomains(); !slices.Contains(domains, caller.ID.TrustDomain) {
		s.count.identity.Add(1)
		return nil, status.Errorf(codes.PermissionDenied, "%s is not of this mesh: its trust domain is %s", caller.ID, strings.Join(domains, " or "))
	}
	// A wish that is not met must not look as if it were.
	wishes := req.GetMetadata().GetFields()
	if as := wishes["ImpersonatedIdentity"].GetStringValue(); as != "" && as != caller.ID.String() {
		s.count.identity.Add(1)
		return nil, status.Errorf(codes.PermissionDenied, "%s asks for the identity of another workload; this authority lets nobody do so", caller.ID)
	}
	if signer := wishes["CertSigner"].GetStringValue(); signer != "" {
		return nil, status.Error(codes.InvalidArgument, "a signer of its own (CertSigner) is asked for; this authority has one signer for all: leave it out")
	}
	const century = 100 * 365 * 24 * 3600 // seconds; more than any authority grants, and a time.Duration holds it
	ttl := time.Duration(min(req.GetValidityDuration(), century)) * time.Second
	authority, _ := s.o.Authority.Watch()
	grant := ca.Grant{ID: caller.ID, TTL: max(ttl, 0)}
	var issued *ca.Issued
	var err error
	if s.o.External != nil {
		issued, err = authority.SignBy(ctx, s.o.External, []byte(req.GetCsr()), grant)
	} else {
		issued, err = authority.Sign([]byte(req.GetCsr()), grant)
	}
	if err == nil {
		return issued, nil
	}
	if _, ok := errors.AsType[*ca.RequestError](err); ok {
		s.count.malformed.Add(1)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if errors.Is(err, ca.ErrEnded) {
		s.count.ended.Add(1)
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	s.count.failed.Add(1)
	if errors.Is(err, ca.ErrExternal) { // it is tried again; what the caller has stays good until it ends
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return nil, status.Error(codes.Internal, err.Error())
}

// PeerHost is the caller's address without its port, which changes with each
// connection.
func PeerHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return "unknown"
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return cmp.Or(p.Addr.String(), "unknown")
	}
	return host
}
