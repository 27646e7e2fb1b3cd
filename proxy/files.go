package proxy

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/state"
)

// filesLook is how often files of certificates are looked at: who replaces them in time has hours for it.
const filesLook = 5 * time.Second

// reread has certificates, keys and roots in files in force as they are now. Connections stay.
func (s *publisher) reread(ctx context.Context) error {
	for {
		select {
		case <-s.files:
		case <-ctx.Done():
			return nil
		}
		for n := 1; n > 0; {
			select {
			case <-time.After(filesLook):
			case <-ctx.Done():
				return nil
			}
			n = s.lookAtFiles()
		}
	}
}

// lookAtFiles looks at them once and says how many there are.
func (s *publisher) lookAtFiles() int {
	s.mu.Lock()
	names := s.builder.Files()
	s.mu.Unlock()
	now := state.LookAt(names) // not under the lock: a file system may be slow
	s.mu.Lock()
	defer s.mu.Unlock()
	next, gone, read, err := s.builder.Reread(now)
	if err != nil {
		s.p.o.Log.Warn("files of certificates have changed and are not used: what they held before stays in force", "files", read, "err", err,
			"remedy", "certificate and key have to belong together, in PEM, and be readable for the proxy; they are read again when they change")
	}
	if next != nil {
		s.p.o.Log.Info("certificates read again", "files", read)
		s.publish(next, gone)
		s.follow()
	}
	s.noteFiles()
	return len(names)
}

// held are the files of certificates in use, for the control plane, and what is closed when they are others.
type held struct {
	mu      sync.Mutex
	names   state.Files
	files   []*observev1.CertificateFile
	changed chan struct{}
}

// maxFiles is what a control plane takes of them.
const maxFiles = 100

// noteFiles reads until when files of certificates are good, if they are not those that were noted last.
func (s *publisher) noteFiles() {
	names, h := s.builder.Files(), &s.p.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if names.Equal(h.names) {
		return
	}
	h.names, h.files = names, nil
	for _, name := range slices.Sorted(maps.Keys(names)) {
		text, err := os.ReadFile(name)
		if err != nil || len(h.files) == maxFiles {
			continue // who needs the file says so
		}
		if c := identity.Ends(text); c != nil {
			h.files = append(h.files, &observev1.CertificateFile{Path: name, Subject: c.Subject.String(), FromUnixNano: uint64(c.NotBefore.UnixNano()), UntilUnixNano: uint64(c.NotAfter.UnixNano())})
		}
	}
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

func (h *held) watch() ([]*observev1.CertificateFile, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.files, h.changed
}
