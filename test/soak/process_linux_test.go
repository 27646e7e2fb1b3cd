package soak_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// length is how long the test shall last; soak says whether somebody has asked for that.
func length(t *testing.T) (long time.Duration, soak bool) {
	t.Helper()
	s := os.Getenv("SOAK")
	if s == "" {
		return 3 * time.Second, false
	}
	long, err := time.ParseDuration(s)
	if err != nil || long < 10*time.Second {
		t.Fatalf("SOAK=%q: want a time of 10s or more, like 5m", s)
	}
	return long, true
}

// build makes weir-proxy.
func build(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(dir, "weir-proxy")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/weirmesh/weir/cmd/weir-proxy").CombinedOutput(); err != nil {
		t.Fatalf("building weir-proxy: %v\n%s", err, out)
	}
	return program
}

// process is a weir-proxy, as the kernel sees it.
type process struct {
	cmd *exec.Cmd
	log bytes.Buffer // errors only, so that each line is one too many; to be read when it has ended
}

// adopt is to be called with its command before it starts.
func (p *process) adopt(c *exec.Cmd) {
	c.Args = append(c.Args, "--workers", "2", "--log-level", "error")
	c.Stdout, c.Stderr = nil, &p.log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd = c
}

// memory is its private memory (RssAnon) in bytes.
func (p *process) memory(t *testing.T) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int
		if n, _ := fmt.Sscanf(s.Text(), "RssAnon: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("the kernel does not say RssAnon")
	return 0
}

// descriptors are what it has open.
func (p *process) descriptors(t *testing.T) (all []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			all = append(all, to)
		}
	}
	return all
}

// sockets says what those of descriptors are that before did not have: their lines in the kernel's tables.
func (p *process) sockets(now, before []string) string {
	var b strings.Builder
	for _, d := range now {
		inode, ok := strings.CutPrefix(d, "socket:[")
		if !ok || slices.Contains(before, d) {
			continue
		}
		for _, table := range []string{"tcp", "tcp6", "udp", "unix"} {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.cmd.Process.Pid, table))
			for line := range strings.Lines(string(text)) {
				if slices.Contains(strings.Fields(line), strings.TrimSuffix(inode, "]")) {
					fmt.Fprintf(&b, "%s %s", table, line)
				}
			}
		}
	}
	return b.String()
}

// curve is the memory of a process in the course of a test.
type curve struct{ settled, most, last int }

// add takes what it is now, done of 1 into the test. The most of the first quarter may be exceeded by flat, and by a fifth: what is
// alive and as much garbage are there before the collector comes, and a quarter does not see all moments of it.
func (c *curve) add(now int, done float64, flat int) error {
	c.last, c.most = now, max(c.most, now)
	if done < 0.25 {
		c.settled = max(c.settled, now)
	} else if now > c.settled+c.settled/5+flat {
		return fmt.Errorf("RssAnon is %.1f MB after %.0f %%; it was %.1f MB after a quarter", mb(now), done*100, mb(c.settled))
	}
	return nil
}

func (c *curve) String() string {
	return fmt.Sprintf("RssAnon %.1f MB in the first quarter, %.1f MB at most, %.1f MB at the end", mb(c.settled), mb(c.most), mb(c.last))
}

func mb(n int) float64 { return float64(n) / 1e6 }

// certificate writes cert.pem and key.pem for the name soak, and returns what trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "soak"}, DNSNames: []string{"soak"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		text := pem.EncodeToMemory(block)
		pool.AppendCertsFromPEM(text)
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pool
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}
