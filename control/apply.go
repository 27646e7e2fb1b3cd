package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
)

// maxApply bounds one request: what the file source takes as one file.
const maxApply = 64 << 20

// takeUpTime bounds the wait until what was written is in force: the file source
// publishes within 40 ms, lowering a large change takes some more, and a machine on which
// everything is slow takes seconds. Who was told of no version has nothing to wait for.
const takeUpTime = 5 * time.Second

// handleApply takes YAML documents. All of them are written, or none.
func (p *Plane) handleApply(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxApply))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "reading the documents: "+err.Error(), "split them: at most 64 MiB at once")
		return
	}
	p.applying.Lock()
	defer p.applying.Unlock()
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	unit := file.Parse(apiv1.GivenFile, body, p.o.Namespace)
	result, files := p.plan(r.Context(), u, unit)
	result.DryRun = r.URL.Query().Get("dry-run") == "true"
	switch {
	case result.Refused:
		answer(w, http.StatusUnprocessableEntity, result)
		return
	case len(result.Objects) == 0:
		fail(w, http.StatusBadRequest, "there is no object in what was sent", "send YAML documents with apiVersion and kind")
		return
	case result.DryRun:
		answer(w, http.StatusOK, result)
		return
	}
	if err := p.writeApplied(r.Context(), files); err != nil {
		fail(w, http.StatusInternalServerError, "writing what is applied: "+err.Error(), "is the state folder full or read-only?")
		return
	}
	result.Mesh = p.takenUp(r.Context(), func(u *store.Update) bool {
		for _, o := range unit.Objects {
			if now := u.Objects.At(o.ID.String()); now == nil || now.Raw == nil || now.Raw.Ref.Hash != o.Ref.Hash {
				return false
			}
		}
		return true
	})
	answer(w, http.StatusOK, result)
}

// takenUp is the version of the configuration in which a change is in force, 0 if that
// takes too long.
func (p *Plane) takenUp(ctx context.Context, ok func(*store.Update) bool) uint64 {
	ctx, cancel := context.WithTimeout(ctx, takeUpTime)
	defer cancel()
	u, err := p.await(ctx, ok)
	if err != nil {
		return 0
	}
	return u.Snapshot.Version
}

// plan says what applying a unit would do, and with which files.
func (p *Plane) plan(ctx context.Context, u *store.Update, unit config.Unit) (apiv1.ApplyResult, map[string][]byte) {
	fs := append([]config.Finding(nil), unit.Findings...)
	files := map[string][]byte{}
	var result apiv1.ApplyResult
	seen := map[config.ID]bool{}
	told := sync.OnceValue(func() []callers { all, _ := p.everyCaller(ctx); return all })
	for _, o := range unit.Objects {
		a := apiv1.Applied{Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: o.ID.Name, Action: "created", Line: o.TextLine()}
		lowered, state, found := store.Lower(o, u.Snapshot.Settings)
		if seen[o.ID] {
			found = append(found, config.New(config.Duplicate, o.Ref, "", o.Ref.Line, o.ID.Kind+" "+o.ID.Namespace+"/"+o.ID.Name+" is given twice", "remove one of the two"))
		}
		seen[o.ID] = true
		if old := u.Objects.At(o.ID.String()); old != nil && old.Raw != nil {
			switch {
			case p.fallback(old.Ref().File) && old.Raw.Ref.Hash != o.Ref.Hash:
				a.Action, a.Note = "configured", "instead of the one of "+p.whose(old.Ref().File)
			case !p.applied(old) && !p.fallback(old.Ref().File):
				found = append(found, config.New(config.Duplicate, o.Ref, "", o.Ref.Line,
					fmt.Sprintf("%s %s/%s stands in %s:%d, which is watched; applying it would not change it", o.ID.Kind, o.ID.Namespace, o.ID.Name, old.Ref().File, old.Ref().Line),
					"edit that file"))
			case old.Raw.Ref.Hash == o.Ref.Hash:
				a.Action = "unchanged"
			default:
				a.Action = "configured"
			}
		}
		fs = append(fs, found...)
		fs = append(fs, wouldRefuse(u, o, lowered, told, time.Now().Round(0))...)
		if config.Errors(found) > 0 || state == store.Quarantined {
			a.Action = "refused"
			result.Refused = true
		}
		if a.Action != "unchanged" {
			files[appliedName(o.ID)] = []byte(o.Text())
		}
		result.Objects = append(result.Objects, a)
	}
	if config.Errors(unit.Findings) > 0 {
		result.Refused = true
	}
	result.Findings = findings(config.Tidy(fs))
	return result, files
}

func appliedName(id config.ID) string { return id.FileName() + ".yaml" }

// fallback reports whether a file is one that `weir up` brings along.
func (p *Plane) fallback(file string) bool {
	return slices.ContainsFunc(p.o.Fallbacks, func(dir string) bool { return filepath.Dir(filepath.Clean(file)) == filepath.Clean(dir) })
}

// whose names who brings such a file.
func (p *Plane) whose(file string) string {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if demo, ok := strings.CutPrefix(name, "demo-"); ok {
		return "the demo " + demo
	}
	return "weir up"
}

// applied reports whether an object stands where it was put by handleApply; a file there
// that the operator wrote is like any other.
func (p *Plane) applied(o *store.Object) bool {
	return filepath.Clean(o.Ref().File) == filepath.Join(p.appliedDir(), appliedName(o.ID))
}

// writeApplied replaces files, none if one of them cannot be written or nobody waits for
// them any more. The watcher sees the old or the new one.
func (p *Plane) writeApplied(ctx context.Context, files map[string][]byte) error {
	written := map[string]string{} // name → where its text waits
	defer func() {
		for _, tmp := range written {
			_ = os.Remove(tmp) // gone already when all went well
		}
	}()
	for name, text := range files {
		f, err := os.CreateTemp(p.appliedDir(), ".new-*")
		if err != nil {
			return err
		}
		written[name] = f.Name()
		_, err = f.Write(text)
		if err := errors.Join(err, f.Sync(), f.Close(), ctx.Err()); err != nil {
			return err
		}
	}
	for name, tmp := range written {
		if err := os.Rename(tmp, filepath.Join(p.appliedDir(), name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) handleDelete(w http.ResponseWriter, r *http.Request) {
	kind, namespace, name := r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name")
	p.applying.Lock()
	defer p.applying.Unlock()
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	for o := range u.Objects.Values() {
		if !sameKind(o.ID.Kind, kind) || !inNamespace(o.ID.Namespace, namespace) || o.ID.Name != name {
			continue
		}
		file := filepath.Join(p.appliedDir(), appliedName(o.ID))
		_, err := os.Lstat(file)
		switch ref := o.Ref(); {
		case err == nil: // in force, or hidden by a file that came later
		case p.o.Pods != "" && filepath.Dir(filepath.Clean(ref.File)) == filepath.Clean(p.o.Pods):
			fail(w, http.StatusConflict, fmt.Sprintf("%s %s is a workload that runs", o.ID.Kind, qualified(o.ID.Namespace, name)), "change its Deployment, or end its `weir run`")
			return
		case p.fallback(ref.File):
			fail(w, http.StatusConflict, fmt.Sprintf("%s %s belongs to %s and cannot be deleted", o.ID.Kind, qualified(o.ID.Namespace, name), p.whose(ref.File)),
				"apply another version of it, which is used instead until you delete that")
			return
		case !p.applied(o):
			fail(w, http.StatusConflict, fmt.Sprintf("%s %s stands in %s:%d", o.ID.Kind, qualified(o.ID.Namespace, name), ref.File, ref.Line), "remove it there; the file is watched")
			return
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			fail(w, http.StatusInternalServerError, "deleting: "+err.Error(), "")
			return
		}
		version := p.takenUp(r.Context(), func(u *store.Update) bool {
			now := u.Objects.At(o.ID.String())
			// Another file may define it, too.
			return now == nil || !p.applied(now) && !slices.ContainsFunc(now.Findings, func(f config.Finding) bool { return filepath.Clean(f.Object.File) == file })
		})
		gone := apiv1.Applied{Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: name, Action: "deleted"}
		if now := p.latest.Load().Objects.At(o.ID.String()); now != nil && !p.applied(now) {
			switch ref := now.Ref(); {
			case p.fallback(ref.File):
				gone.Note = "the one of " + p.whose(ref.File) + " is in force again"
			default:
				gone.Note = fmt.Sprintf("the one in %s:%d stays", ref.File, ref.Line)
			}
		}
		answer(w, http.StatusOK, apiv1.ApplyResult{Mesh: version, Objects: []apiv1.Applied{gone}})
		return
	}
	fail(w, http.StatusNotFound, "there is no "+kind+" "+qualified(namespace, name), "`weir get "+kind+"` lists those there are")
}
