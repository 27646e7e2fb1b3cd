package conn_test

import (
	"bufio"
	"bytes"
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// program is an openssl command under way.
type program struct {
	t     *testing.T
	in    io.WriteCloser
	lines *bufio.Scanner
	seen  []string
}

func openssl(t *testing.T, args ...string) *program {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: it asks for new keys, chooses suites and renegotiates, which crypto/tls cannot")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	cmd := exec.CommandContext(ctx, path, args...)
	p := &program{t: t}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	p.lines = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.in.Close()
		cancel()
		cmd.Wait()
	})
	return p
}

// await reads until a line that contains want, and returns it.
func (p *program) await(want string) string {
	p.t.Helper()
	for p.lines.Scan() {
		line := p.lines.Text()
		p.seen = append(p.seen, line)
		if strings.Contains(line, want) {
			return line
		}
	}
	p.t.Fatalf("openssl never said %q, but:\n%s", want, strings.Join(p.seen, "\n"))
	return ""
}

// Clients of another library, with every suite: what they send is echoed before and after
// they changed their keys and asked us to change ours.
func TestKernelOpenSSLClient(t *testing.T) {
	w := tlstest.New(t).Workload("default", "ratings")
	for name, std := range records {
		server, err := tls.NewServer(tls.ServerOptions{Identity: w, Tickets: true, StdRecords: std})
		if err != nil {
			t.Fatal(err)
		}
		for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
			t.Run(name+", "+suite, func(t *testing.T) {
				a := listen(t, kernelLoop(t), netip.MustParseAddrPort("127.0.0.1:0"), func() conn.Handler { return starter{server} })
				p := openssl(t, "s_client", "-connect", a.String(), "-tls1_3", "-msg", "-ciphersuites", suite)
				for i, word := range []string{"one", "two", "three"} {
					io.WriteString(p.in, word+"\n")
					for p.await(word) != word {
					}
					io.WriteString(p.in, "K\n")   // a command, if it comes alone: send KeyUpdate and ask for one
					p.await("    18 00 00 01 00") // ours, which asks for none
					if got := strings.Count(strings.Join(p.seen, "\n"), "    18 00 00 01 00"); got != i+1 {
						t.Errorf("%d key updates of ours, want %d", got, i+1)
					}
				}
			})
		}
	}
}

// TLS 1.2 clients may not shake hands a second time.
func TestKernelRenegotiation(t *testing.T) {
	w := tlstest.New(t).Workload("default", "ratings")
	server, err := tls.NewServer(tls.ServerOptions{Identity: w, MinVersion: tls.TLS12})
	if err != nil {
		t.Fatal(err)
	}
	a := listen(t, kernelLoop(t), netip.MustParseAddrPort("127.0.0.1:0"), func() conn.Handler { return starter{server} })
	p := openssl(t, "s_client", "-connect", a.String(), "-tls1_2", "-msg", "-legacy_renegotiation")
	io.WriteString(p.in, "one\n")
	for p.await("one") != "one" {
	}
	io.WriteString(p.in, "R\n")
	p.await("alert")
}

// A server of another library: requests of all sizes are answered, and the second
// connection resumes the session of the first.
func TestKernelOpenSSLServer(t *testing.T) {
	ca := tlstest.New(t)
	cert := ca.Server("shop.example")
	file := filepath.Join(t.TempDir(), "server.pem")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, std := range records {
		for _, version := range []uint16{tls.TLS12, tls.TLS13} {
			t.Run(fmt.Sprint(name, ", ", stdtls.VersionName(version)), func(t *testing.T) {
				p := openssl(t, "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-rev")
				_, port, _ := strings.Cut(p.await("ACCEPT 127.0.0.1:"), "127.0.0.1:")
				client, err := tls.NewClient(tls.ClientOptions{SNI: "shop.example", Trust: tls.Trust{Roots: ca.Pool()}, Sessions: 1, StdRecords: std, MinVersion: version, MaxVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				l := kernelLoop(t)
				for i := range 3 {
					want := bytes.Repeat([]byte("abcdefgh"), 500<<i) // openssl turns round at most 16 KB at once
					answer := make(chan []byte, 1)
					resumed := false
					var got []byte
					o := &asker{data: func(c *conn.Conn, b []byte) int {
						if got = append(got, b...); len(got) > len(want) {
							resumed = c.Info().TLS.Resumed
							c.Close()
							answer <- got
						}
						return len(b)
					}}
					l.Post(func() {
						to := loop.TCP(netip.MustParseAddrPort("127.0.0.1:" + strings.TrimSpace(port)))
						conn.Dial(l, conn.Target{Addr: to, TLS: client}, o).Write(append(bytes.Clone(want), '\n'))
					})
					select {
					case got := <-answer:
						if len(got) != len(want)+1 || !strings.HasPrefix(string(got), "hgfedcba") {
							t.Errorf("connection %d: %d bytes for %d", i, len(got), len(want)+1)
						}
					case <-time.After(10 * time.Second):
						t.Fatalf("connection %d: no answer", i)
					}
					if resumed != (i > 0) {
						t.Errorf("connection %d: resumed %v", i, resumed)
					}
				}
			})
		}
	}
}

// asker looks at what it is sent.
type asker struct {
	data func(c *conn.Conn, b []byte) int
}

func (asker) Open(*conn.Conn)                    {}
func (a *asker) Data(c *conn.Conn, b []byte) int { return a.data(c, b) }
func (asker) EOF(*conn.Conn)                     {}
func (asker) Drained(*conn.Conn)                 {}
func (asker) Closed(*conn.Conn, conn.Why)        {}
