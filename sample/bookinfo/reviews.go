package bookinfo

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// ReviewsOptions configure Reviews.
type ReviewsOptions struct {
	Version string  // reported as is, "v2"
	Ratings Backend // asked if Stars is set

	// Stars is the colour of the stars, "black" in v2 and "red" in v3; "" (v1)
	// shows none and never asks ratings.
	Stars string

	Pod      string        // HOSTNAME of the pod that answers
	Cluster  string        // name of its cluster; "" is reported as "null"
	Client   *http.Client  // nil: NewClient()
	Patience time.Duration // for one answer; 0: as the original
	Log      *slog.Logger  // nil: silent
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

// rating holds either stars and their colour, or the error that kept them away.
type rating struct {
	Stars *int   `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

type reviews struct {
	ID      string   `json:"id"`
	Pod     string   `json:"podname"`
	Cluster string   `json:"clustername"`
	Version string   `json:"version,omitempty"` // ours; the original has no such field
	Reviews []review `json:"reviews"`
}

// ratingsTimeout is the original's: black stars wait longer than the product
// page does (the deliberate bug of the fault injection walk-through), red ones
// give up sooner (its fix).
func (o ReviewsOptions) ratingsTimeout() time.Duration {
	if o.Patience > 0 {
		return o.Patience
	}
	if o.Stars == "black" {
		return 10 * time.Second
	}
	return 2500 * time.Millisecond
}

// Reviews serves GET /reviews/{id} and /health.
func Reviews(o ReviewsOptions) http.Handler {
	if o.Client == nil {
		o.Client = NewClient()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Cluster == "" {
		o.Cluster = "null"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, health{"Reviews is healthy"})
	})
	mux.HandleFunc("GET /reviews/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		answer := reviews{ID: strconv.Itoa(id), Pod: o.Pod, Cluster: o.Cluster, Version: o.Version, Reviews: []review{
			{Reviewer: "Reviewer1", Text: "Two pairs of twins, one long day, and not a dull minute. I laughed out loud on the train."},
			{Reviewer: "Reviewer2", Text: "A quick, bright farce. Do not look for the depths of the later plays; enjoy the confusion."},
		}}
		if o.Stars != "" {
			stars, err := o.stars(r, id)
			if err != nil {
				o.Log.Warn("no ratings", "err", err)
			}
			for i := range answer.Reviews {
				rev := &answer.Reviews[i]
				if n, rated := stars[rev.Reviewer]; rated {
					rev.Rating = &rating{Stars: &n, Color: o.Stars}
				} else {
					rev.Rating = &rating{Error: "Ratings service is currently unavailable"}
				}
			}
		}
		writeJSON(w, http.StatusOK, answer)
	})
	return mux
}

// stars asks ratings for each reviewer's stars.
func (o ReviewsOptions) stars(r *http.Request, id int) (map[string]int, error) {
	status, body, err := o.Ratings.get(r.Context(), o.Client, fmt.Sprintf("/ratings/%d", id), forward(r), o.ratingsTimeout())
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("calling %s: status %d", o.Ratings.Authority, status)
	}
	var answer ratings
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", o.Ratings.Authority, err)
	}
	return answer.Ratings, nil
}
