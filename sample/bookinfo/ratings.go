package bookinfo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// maxRated bounds the products whose ratings are remembered.
const maxRated = 1000

// RatingsOptions configure Ratings.
type RatingsOptions struct {
	// Version selects the behaviour: "v2" wants a database; "v-faulty" fails half
	// of the requests, "v-delayed" delays half of them by 7 s, "v-unavailable"
	// fails every other minute, "v-unhealthy" fails and reports itself unhealthy
	// every other quarter of an hour. Any other is v1.
	Version string

	// Database is asked by v2 before each answer.
	Database func(context.Context) error

	// Coin decides for v-faulty and v-delayed. nil: a fair one.
	Coin func() bool

	Log *slog.Logger // nil: silent
}

type ratings struct {
	ID      int            `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

// ratingsService remembers the ratings that were posted to it.
type ratingsService struct {
	RatingsOptions
	start time.Time

	mu    sync.Mutex
	rated map[int]map[string]int
}

// Ratings serves GET and POST /ratings/{id} and /health. Posted ratings live as
// long as the handler.
func Ratings(o RatingsOptions) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Coin == nil {
		o.Coin = func() bool { return rand.N(2) == 0 }
	}
	if o.Database == nil {
		o.Database = func(context.Context) error { return errors.New("no database is configured") }
	}
	s := &ratingsService{RatingsOptions: o, start: time.Now(), rated: map[int]map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /ratings/{id}", s.get)
	mux.HandleFunc("POST /ratings/{id}", s.post)
	return mux
}

// down reports whether the time since the start lies in an odd period.
func (s *ratingsService) down(period time.Duration) bool {
	return time.Since(s.start)/period%2 == 1
}

func (s *ratingsService) health(w http.ResponseWriter, _ *http.Request) {
	if s.Version == "v-unhealthy" && s.down(15*time.Minute) {
		writeJSON(w, http.StatusInternalServerError, health{"Ratings is not healthy"})
		return
	}
	writeJSON(w, http.StatusOK, health{"Ratings is healthy"})
}

func (s *ratingsService) get(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	unavailable := false
	switch s.Version {
	case "v2":
		if err := s.Database(r.Context()); err != nil {
			s.Log.Warn("no ratings database", "err", err)
			writeJSON(w, http.StatusInternalServerError, failure{"could not connect to ratings database"})
			return
		}
	case "v-faulty":
		unavailable = s.Coin()
	case "v-unavailable":
		unavailable = s.down(time.Minute)
	case "v-unhealthy":
		unavailable = s.down(15 * time.Minute)
	case "v-delayed":
		if s.Coin() {
			select {
			case <-time.After(7 * time.Second):
			case <-r.Context().Done():
				return
			}
		}
	}
	if unavailable {
		writeJSON(w, http.StatusServiceUnavailable, failure{"Service unavailable"})
		return
	}
	writeJSON(w, http.StatusOK, s.of(id))
}

func (s *ratingsService) post(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var given map[string]int
	if err != nil || json.Unmarshal(body, &given) != nil || given == nil {
		writeJSON(w, http.StatusBadRequest, failure{"please provide valid ratings JSON"})
		return
	}
	if s.Version == "v2" {
		writeJSON(w, http.StatusNotImplemented, failure{"Post not implemented for database backed ratings"})
		return
	}
	s.mu.Lock()
	_, known := s.rated[id]
	full := !known && len(s.rated) >= maxRated
	if !full {
		s.rated[id] = given
	}
	s.mu.Unlock()
	if full {
		writeJSON(w, http.StatusInsufficientStorage, failure{"too many products are rated"})
		return
	}
	writeJSON(w, http.StatusOK, s.of(id))
}

// of returns the product's ratings. Stored maps are never changed.
func (s *ratingsService) of(id int) ratings {
	s.mu.Lock()
	defer s.mu.Unlock()
	if given, ok := s.rated[id]; ok {
		return ratings{id, given}
	}
	return ratings{id, map[string]int{"Reviewer1": 5, "Reviewer2": 4}}
}
