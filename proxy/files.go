package proxy

import (
	"context"
	"time"

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
	return len(names)
}
