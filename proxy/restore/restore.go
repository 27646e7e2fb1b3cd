// Package restore keeps the proxy's last good state in one file, so that a proxy that
// restarts while the control plane is away serves at once.
//
// Accepted xDS updates and key material enter through a Keeper; a file leaves: in a
// folder of mode 0700, checksummed, replaced atomically, bound to the mesh and the
// workload it was made for. Load gives back what a former process kept, or says why it
// must not be used; then the proxy starts empty. One goroutine (Run) writes; Changed and
// Material may be called from any.
//
// The file is: a line "weir-state 1", a JSON line (Header), then length-prefixed
// envoy.service.discovery.v3.DeltaDiscoveryResponse messages, one a type, and at the end
// the SHA-256 of all before it. Unchanged resources are copied from the old file, so the
// keeper holds nothing in memory between two writes.
package restore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	magic    = "weir-state 1\n"
	fileName = "last-good"
	// maxFile bounds what is read back: ten times the resources of an eager client in a
	// mesh of 5,000 services (46 MB as measured 2026-11).
	maxFile = 512 << 20
	// MaxAge is how old a state may be and still be used without a control plane. A
	// certificate lives 24 h, so an older state could not be served with anyway.
	MaxAge = 24 * time.Hour
)

// Binding says for whom a state is. A state of another mesh or workload is not used.
type Binding struct {
	TrustDomain string `json:"trustDomain"`
	Identity    string `json:"identity"` // SPIFFE ID
	Node        string `json:"node"`     // xDS node id without the address, which may change
}

// Header is what the file says about itself.
type Header struct {
	Binding
	Saved    time.Time `json:"saved"`
	Material []byte    `json:"material,omitempty"` // identity.Material, marshalled
	// Demanded are the names by type URL that were asked for on demand.
	Demanded map[string][]string `json:"demanded,omitempty"`
}

// Saved is a loaded state.
type Saved struct {
	Header
	// Updates are the resources, one Update a type, in the order they must be applied:
	// the index of what else there is, clusters, endpoints, listeners, routes, then the rest.
	Updates []state.Update
}

// OnDemand reports whether it is a part of the configuration only, the rest being on demand.
func (s *Saved) OnDemand() bool {
	return slices.ContainsFunc(s.Updates, func(u state.Update) bool { return u.TypeURL == resource.IndexType && len(u.Set) > 0 })
}

// ErrNone is returned by Load when there is no file.
var ErrNone = errors.New("no state was kept")

// Load reads the state kept in dir. Any error other than ErrNone names the cause for
// which the state was not used; the proxy starts empty then.
func Load(dir string, b Binding, now time.Time) (*Saved, error) {
	h, types, err := read(filepath.Join(dir, fileName))
	if err != nil {
		return nil, err
	}
	switch {
	case h.Binding != b:
		return nil, fmt.Errorf("kept state is of %s (%s) in %s, this is %s (%s) in %s", h.Node, h.Identity, h.TrustDomain, b.Node, b.Identity, b.TrustDomain)
	case now.Sub(h.Saved) > MaxAge:
		return nil, fmt.Errorf("kept state is %v old, at most %v", now.Sub(h.Saved).Round(time.Minute), MaxAge)
	case h.Saved.Sub(now) > time.Hour:
		return nil, fmt.Errorf("kept state is from %s, which is still to come: check the clock", h.Saved.Format(time.RFC3339))
	}
	s := &Saved{Header: *h}
	for _, r := range types {
		u := state.Update{TypeURL: r.GetTypeUrl()}
		for _, x := range r.GetResources() {
			u.Set = append(u.Set, state.Resource{Name: x.GetName(), Version: x.GetVersion(), Body: x.GetResource()})
		}
		s.Updates = append(s.Updates, u)
	}
	slices.SortStableFunc(s.Updates, func(a, b state.Update) int { return order(a.TypeURL) - order(b.TypeURL) })
	return s, nil
}

// read returns header and contents of a file whose checksum is right.
func read(path string) (*Header, []*discoveryv3.DeltaDiscoveryResponse, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, ErrNone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading kept state: %w", err)
	}
	if st.Size() > maxFile {
		return nil, nil, fmt.Errorf("kept state has %d bytes, at most %d", st.Size(), maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading kept state: %w", err)
	}
	return decode(b)
}

func decode(b []byte) (*Header, []*discoveryv3.DeltaDiscoveryResponse, error) {
	damaged := func(why string) (*Header, []*discoveryv3.DeltaDiscoveryResponse, error) {
		return nil, nil, fmt.Errorf("kept state is damaged: %s", why)
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return damaged("it does not begin with " + magic[:len(magic)-1])
	}
	if len(b) < len(magic)+sha256.Size {
		return damaged("it is too short")
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return damaged("the checksum is wrong")
	}
	line, rest, ok := bytes.Cut(body[len(magic):], []byte("\n"))
	if !ok {
		return damaged("it has no header")
	}
	h := &Header{}
	if err := json.Unmarshal(line, h); err != nil {
		return damaged(err.Error())
	}
	var types []*discoveryv3.DeltaDiscoveryResponse
	for len(rest) > 0 {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return damaged("a length is wrong")
		}
		m := &discoveryv3.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(rest[size:size+int(n)], m); err != nil {
			return damaged(err.Error())
		}
		types = append(types, m)
		rest = rest[size+int(n):]
	}
	return h, types, nil
}

// write replaces the file atomically: a crash leaves the old one or the new one.
func write(dir string, h *Header, types []*discoveryv3.DeltaDiscoveryResponse) error {
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return err
	}
	f, err := os.CreateTemp(dir, fileName+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	w := bufio.NewWriterSize(f, 64<<10)
	put := func(b []byte) error {
		sum.Write(b)
		_, err := w.Write(b)
		return err
	}
	if err := put(slices.Concat([]byte(magic), head, []byte("\n"))); err != nil {
		return err
	}
	for _, m := range types {
		b, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := put(binary.AppendUvarint(nil, uint64(len(b)))); err != nil {
			return err
		}
		if err := put(b); err != nil {
			return err
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, fileName))
}
