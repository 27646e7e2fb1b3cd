//go:build linux

package acceptance_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/identity/istioca"
	"github.com/weirmesh/weir/internal/locked"
)

// nobody trusts the mesh and has no certificate.
type nobody struct{ roots *identity.Bundle }

func (nobody) Certificate() *tls.Certificate { return nil }
func (n nobody) Bundle() *identity.Bundle    { return n.roots }

// A control plane of its own is flooded with certificate requests over 24 connections, as many as they carry: without a token, expired, replayed, of
// a workload in a loop, for another's identity, and connections that are opened for one request each. All are refused but what the loop may have; every certificate
// that is honestly renewed meanwhile comes at the first attempt; the process stays, in bounded memory, with a log of bounded length.
// How many a second and how soon is printed.
func TestFloodOfCertificateRequests(t *testing.T) {
	long(t)
	bin, err := programs()
	needed = true
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	address := freePort(t)
	var log locked.Buffer
	control := exec.CommandContext(context.Background(), filepath.Join(bin, "weir-control"), "--state", state, "--grpc", address, "--http", "")
	control.Stdout, control.Stderr = &log, &log
	if err := control.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- control.Wait() }()
	t.Cleanup(func() {
		_ = control.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			t.Errorf("weir-control: %v\n%s", err, log.Tail(2000))
		}
	})
	self := process{pid: control.Process.Pid}

	// The state folder is what makes tokens and certificates good.
	dir := filepath.Join(state, "ca")
	authority, err := ca.OpenSelfSigned(dir, "cluster.local", ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	account := func(name string) identity.ID {
		return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
	}
	istiod := account("istiod")
	istiod.Namespace = "istio-system"
	mint := func(name string, life time.Duration, once string) []string {
		text, err := key.Mint(token.Claims{ID: account(name), Audience: token.Audience, Expires: time.Now().Add(life), Once: once})
		if err != nil {
			t.Fatal(err)
		}
		return []string{"authorization", "Bearer " + text.Reveal()}
	}
	request := func() []byte {
		k, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		text, err := identity.NewRequest(k, istiod)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	dial := func(held identity.Source) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(held, identity.OneOf{istiod}))))
	}
	stranger := nobody{authority.Bundle()}
	renew := func(name string) error {
		held, err := authority.Issue(ca.Grant{ID: account(name)})
		if err != nil {
			return err
		}
		c, err := istioca.New(istioca.Options{Address: "passthrough:///" + address, Servers: identity.OneOf{istiod}})
		if err != nil {
			return err
		}
		_, err = c.Sign(t.Context(), identity.Request{CSR: request(), As: held})
		return err
	}
	wait(t, patience, "the certificate authority", func() error { return renew("first") })
	// The token was used elsewhere an hour ago; its owner's use is on disk.
	if err := token.OpenUses(dir).Use(token.Claims{ID: account("machine"), Once: "used", Expires: time.Now().Add(time.Hour)}, "192.0.2.7", time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	before := self.status("VmRSS")

	kinds := []struct {
		headers []string
		request *securityv1alpha1.IstioCertificateRequest
	}{
		{headers: nil},
		{headers: mint("late", -time.Hour, "")},
		{headers: mint("machine", time.Hour, "used")},
		{headers: mint("loop", time.Hour, "")},
		{headers: mint("thief", time.Hour, ""), request: &securityv1alpha1.IstioCertificateRequest{
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(istiod.String())}}}},
	}
	const connections, streams, flood = 24, 32, 6 * time.Second
	ctx, stop := context.WithCancel(t.Context()) // no deadline: gRPC would tell it to the server
	defer stop()
	time.AfterFunc(flood, stop)
	var answers [17]atomic.Int64 // by code
	var wg sync.WaitGroup
	for i := range connections {
		k := kinds[i%len(kinds)]
		if k.request == nil {
			k.request = &securityv1alpha1.IstioCertificateRequest{}
		}
		k.request.Csr = string(request())
		conn, err := dial(stranger)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range streams {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(metadata.AppendToOutgoingContext(ctx, k.headers...), k.request)
					if ctx.Err() == nil {
						answers[status.Code(err)].Add(1)
					}
				}
			})
		}
	}
	var opened atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				conn, err := dial(stranger)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, kinds[0].request)
				conn.Close()
				if ctx.Err() == nil {
					opened.Add(1)
					answers[status.Code(err)].Add(1)
				}
			}
		})
	}
	began := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				asked := time.Now()
				err := renew(fmt.Sprintf("honest-%d", (8*n+i)%50))
				mu.Lock()
				took = append(took, time.Since(asked))
				mu.Unlock()
				if err != nil {
					t.Errorf("an honest renewal: %v", err)
				}
				select { // paced: they are not part of the flood
				case <-time.After(time.Duration(rand.Int64N(int64(200 * time.Millisecond)))):
				case <-ctx.Done():
				}
			}
		})
	}
	wg.Wait()
	passed := time.Since(began)
	total := int64(0)
	for c := range answers {
		if n := answers[c].Load(); n > 0 {
			total += n
			t.Logf("%-18s %d", codes.Code(c), n)
		}
	}
	slices.Sort(took)
	peak, _ := strconv.Atoi(strings.TrimSuffix(self.status("VmHWM"), " kB"))
	lines := strings.Count(log.String(), "\n")
	t.Logf("%.0f refused a second for %s, %d new connections a second; %d honest renewals, of which half took %s, 99 %% %s, the longest %s; memory %s before, %d MB at most; %d lines in the log",
		float64(total-answers[codes.OK].Load())/passed.Seconds(), passed.Round(time.Second), opened.Load()/int64(passed/time.Second), len(took),
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), before, peak>>10, lines)

	seconds := int64(passed/time.Second) + 1
	if n := answers[codes.OK].Load(); n > 100+10*seconds {
		t.Errorf("%d certificates for who is in a loop", n)
	}
	for _, c := range []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted} {
		if answers[c].Load() == 0 {
			t.Errorf("nobody is answered %s", c)
		}
	}
	if n := answers[codes.OK].Load() + answers[codes.Unauthenticated].Load() + answers[codes.PermissionDenied].Load() + answers[codes.ResourceExhausted].Load(); n != total {
		t.Errorf("%d of %d are answered in another way", total-n, total)
	}
	if peak > 256<<10 {
		t.Errorf("it took %d MB, at most 256 should be", peak>>10)
	}
	// Strangers, the loop and the thief: a hundred and ten a second each; and a line for each certificate.
	if most := int(3*(100+10*seconds)) + len(took) + 100; lines > most {
		t.Errorf("%d lines in the log, at most %d should be", lines, most)
	}
	select {
	case err := <-ended:
		ended <- errors.Join(err, errors.New("it ended"))
	default:
	}
}
