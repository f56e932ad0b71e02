"""What settings may be: tables that `validate` reads. A newcomer's figure or argument is one row here."""
